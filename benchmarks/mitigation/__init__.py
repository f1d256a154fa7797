"""What stops a finished model from drawing what it learned by heart, and what that costs the prompt."""
