"""What the commands beside it run; nothing of it is installed."""
