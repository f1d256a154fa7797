"""Keep a text-to-image fine-tune from memorising its training pairs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from filtering import Decision, FilterConfig, MemorizationFilter, Predictions, Visit, finite_rows

if TYPE_CHECKING:
    from filtering.denoisers.lora import adapter_off
    from inference.detect import detect
    from inference.explain import explain
    from inference.guard import MemorizationGuard
    from inference.minimize import minimize

__all__ = [
    "Decision",
    "FilterConfig",
    "MemorizationFilter",
    "MemorizationGuard",
    "Predictions",
    "Visit",
    "__version__",
    "adapter_off",
    "detect",
    "explain",
    "finite_rows",
    "minimize",
]

__version__ = "0.1.0"

# Loaded when first asked for: they import diffusers and transformers, which take seconds.
_LATER = {
    "MemorizationGuard": "inference.guard",
    "adapter_off": "filtering.denoisers.lora",
    "detect": "inference.detect",
    "explain": "inference.explain",
    "minimize": "inference.minimize",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'memsieve' has no attribute '{name}'")
