"""Which training images come back: by similarity, by caption, by an attack."""
