"""Every method on the same planted duplicates: what is found, what is dropped, what comes back."""
