"""What the filter costs: time, memory, its state."""
