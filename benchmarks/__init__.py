"""What the published numbers were measured with, one folder a benchmark."""
