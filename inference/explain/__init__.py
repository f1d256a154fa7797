"""Which words of a prompt move the magnitude."""
