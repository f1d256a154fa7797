"""The fine-tuning loop on Accelerate and DeepSpeed: setup, main, fit, validate."""
