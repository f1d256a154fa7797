"""Starting a W&B run: online for whoever is logged in, and offline with a sentence where that cannot be."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

from memsieve.filtering.settings import SettingsError

__all__ = ["start_wandb"]

T = TypeVar("T")
_log = logging.getLogger(__name__)


def start_wandb(begin: Callable[[dict[str, Any]], T], option: str) -> T:
    """``begin`` called with further arguments of ``wandb.init``.

    W&B says itself whether somebody is logged in (its environment variables, ``~/.netrc``, its settings), and whether
    the server takes the login, within WANDB_HTTP_TIMEOUT (10 s). Where not, or where the server refuses the run, the
    run is kept offline for ``wandb sync``. WANDB_MODE, or ``wandb offline``, decides instead where it is set.

    Args:
        begin: calls ``wandb.init``; it is called again, with ``mode``, where that raised an error of W&B's.
        option: what asked for W&B; named in messages.

    Raises:
        SettingsError: WANDB_MODE asks for what W&B cannot do.
    """
    import wandb

    if _is_decided():
        try:
            return begin({})
        except wandb.Error as error:
            mode = os.environ.get("WANDB_MODE", "")
            raise SettingsError(
                f"{option}: W&B cannot be used as WANDB_MODE = '{mode}' asks ({error}); run `wandb login`, set "
                "WANDB_MODE=offline, or unset it: the run is then kept offline where it must be"
            ) from error
    reason = _why_offline()
    if reason is None:
        try:
            return begin({})
        except wandb.Error as error:
            reason = f"{_server()} does not take the run ({error})"
    _log.warning("%s: W&B is offline, since %s; `wandb sync` sends the run later", option, reason)
    return begin({"mode": "offline"})


def _is_decided() -> bool:
    import wandb

    # In a program that has a run going already there is nothing to log in to.
    return bool(os.environ.get("WANDB_MODE")) or wandb.run is not None or wandb.setup().settings.mode != "online"


def _why_offline() -> str | None:
    import wandb

    try:
        if wandb.login(prompt=False, verify=True):
            return None
    except wandb.Error as error:
        return f"{_server()} cannot be reached, or does not take the login ({error})"
    return f"nobody is logged in to {_server()} (`wandb login`, or WANDB_API_KEY)"


def _server() -> str:
    import wandb

    return str(wandb.setup().settings.base_url)
