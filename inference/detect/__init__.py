"""Which prompts a finished model has memorised."""
