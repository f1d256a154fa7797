"""Every model family, and loops of one's own, on the devices that there are."""
