"""Which prompts of a finished model stand out beside ordinary ones."""
