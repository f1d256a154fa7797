"""A pipeline that measures each call, and warns, refuses, minimises or delays."""
