"""What other packages say of their own work, kept from a command's output.

A library changes nothing for who imports it: only a command asks for this, with ``begin``.
"""

from __future__ import annotations

import logging
import os
import warnings

__all__ = ["begin", "no_loading_bars"]

_asked = False
_LEVELS = {"TRANSFORMERS_VERBOSITY": "error", "DIFFUSERS_VERBOSITY": "error"}
"""Read by these packages when they are imported, in child processes too."""
_LOGGERS = ("DeepSpeed", "torch.distributed.elastic.multiprocessing.redirects", "torchvision")


def begin() -> None:
    """From here on the notices of transformers, diffusers, DeepSpeed and torchvision are left out, and the bars of
    weights that are loaded; errors are not, nor the bars of downloads. What the user's environment says stays."""
    global _asked
    _asked = True
    for name, level in _LEVELS.items():
        os.environ.setdefault(name, level)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # whose modules have loggers of their own
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_only_errors)
    warnings.filterwarnings("ignore", module=r"torchvision\.")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|diffusers|transformers|accelerate)\.")


def no_loading_bars() -> None:
    """Called before weights are loaded: no bar for each part, where a command asked for that."""
    if not _asked:
        return
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils import logging as of_transformers

    of_diffusers.disable_progress_bar()
    before = are_progress_bars_disabled()
    of_transformers.disable_progress_bar()  # those of downloads too, which are kept
    if not before:
        enable_progress_bars()


def _only_errors(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
