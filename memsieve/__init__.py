"""Keep a text-to-image fine-tune from memorising its training pairs."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not Path(__file__).with_name("filtering").is_dir():
    raise ImportError(
        "memsieve/filtering, memsieve/inference and memsieve/train are symbolic links to the folders beside memsieve/, "
        f"and in '{Path(__file__).parent}' they are not: check out with them (git config core.symlinks true, then git "
        "checkout -- memsieve; on Windows in developer mode), or install the wheel, which needs none"
    )

from memsieve.filtering import Decision, FilterConfig, MemorizationFilter, Predictions, Visit, finite_rows

if TYPE_CHECKING:
    from memsieve.filtering.denoisers.lora import adapter_off
    from memsieve.filtering.in_loop import LoopFilter, content_key
    from memsieve.inference.detect.detect import detect
    from memsieve.inference.explain.explain import explain
    from memsieve.inference.guard.guard import MemorizationGuard
    from memsieve.inference.minimize.minimize import minimize

__all__ = [
    "Decision",
    "FilterConfig",
    "LoopFilter",
    "MemorizationFilter",
    "MemorizationGuard",
    "Predictions",
    "Visit",
    "__version__",
    "adapter_off",
    "content_key",
    "detect",
    "explain",
    "finite_rows",
    "minimize",
]

__version__ = "0.2.0"

# Loaded when first asked for: they import diffusers and transformers, which take seconds.
_LATER = {
    "LoopFilter": "memsieve.filtering.in_loop",
    "MemorizationGuard": "memsieve.inference.guard.guard",
    "adapter_off": "memsieve.filtering.denoisers.lora",
    "content_key": "memsieve.filtering.in_loop",
    "detect": "memsieve.inference.detect.detect",
    "explain": "memsieve.inference.explain.explain",
    "minimize": "memsieve.inference.minimize.minimize",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module 'memsieve' has no attribute '{name}'")
