"""Which of twenty captions a picture shows, by small image-text encoders."""
