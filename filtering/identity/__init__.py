"""Which files show one picture: descriptors of what is seen, and the groups that they make."""
