"""Image folders as a source: what lies in one, which file says what an image shows, and the rows of both."""
