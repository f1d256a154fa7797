"""Does a fine-tune copy its training pictures, and does it learn the style? Every method on the same streams."""
