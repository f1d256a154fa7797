"""Keep a text-to-image fine-tune from memorising its training pairs."""

from filtering import Decision, FilterConfig, MemorizationFilter, Predictions, Visit

__all__ = ["Decision", "FilterConfig", "MemorizationFilter", "Predictions", "Visit", "__version__"]

__version__ = "0.1.0"
