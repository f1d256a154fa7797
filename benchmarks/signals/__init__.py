"""Every signal by exposures and t, in the same domain and under a shift."""
