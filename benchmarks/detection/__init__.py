"""Detection and minimisation on models that copy."""
