"""The main job on real images, with the filter and without it."""
