"""Whether the false-drop rate holds, on synthetic streams and in real runs."""
