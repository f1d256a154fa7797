"""One small adapter per model family: encode, noise, predict, convert to epsilon space, export."""
