"""Being asked to stop: by Ctrl-C, by a scheduler, by a terminal that goes away, by a launcher that passes signals on.

torchrun and ``accelerate launch`` pass a signal on to their ranks, and kill those still there after 30 s. A scheduler
signals launcher and ranks both, so that a rank has the same request twice within moments.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from memsieve.filtering.data.workers import STOPS

__all__ = ["Stop", "interruptible", "launcher_patience"]

_TIMEOUT: Final = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"
ECHO: Final = 5.0
"""Seconds within which a launched rank takes a second Ctrl-C for the launcher's echo of the first."""


def launcher_patience() -> float | None:
    """Seconds after which the launcher kills ranks that it asked to end; None without one."""
    return float(os.environ.get(_TIMEOUT, "30")) if "TORCHELASTIC_RUN_ID" in os.environ else None


class Stop:
    """Whether somebody asked the run to stop.

    Args:
        launched: this is one of several ranks, or was started by a launcher.
        tells: this process says on stderr that it was asked.
    """

    def __init__(self, launched: bool = False, tells: bool = True) -> None:
        self.asked = False
        self.launched, self.tells = launched, tells
        self._at = -math.inf
        self._warned = False

    def ask(self, number: int, frame: Any = None) -> None:
        """The handler of a signal: the first one asks for a stop after the window.

        Raises:
            KeyboardInterrupt: a person pressed Ctrl-C again. SIGTERM never means "at once": it is what launchers and
                schedulers repeat, and they have SIGKILL.
        """
        now = time.monotonic()
        if not self.asked:
            self.asked, self._at = True, now
            self._tell()
        elif number == signal.SIGINT and now - self._at > (ECHO if self.launched else 0.0):
            raise KeyboardInterrupt("stopped at once; the last checkpoint stands")

    def _tell(self) -> None:
        patience = launcher_patience()
        ends = f"the launcher waits {patience:g} s for it ({_TIMEOUT})" if patience is not None else ""
        text = f"\nstopping after this step, with a checkpoint; {ends or 'Ctrl-C again stops at once'}\n"
        if self.tells:
            with contextlib.suppress(OSError):  # the terminal may be gone
                # Past the stream's buffer and its lock, which the main thread may be holding.
                os.write(2, text.encode())

    def too_slow(self, window: float, saving: float) -> str | None:
        """A sentence, once, where the launcher would not wait for a window and a checkpoint, in seconds each."""
        patience = launcher_patience()
        if patience is None or self._warned or window + saving < 0.8 * patience:
            return None
        self._warned = True
        enough = 60 * math.ceil((window + saving) / 30)
        return (
            f"a window takes {window:.0f} s and a checkpoint {saving:.0f} s, and the launcher kills its ranks "
            f"{patience:g} s after Ctrl-C or SIGTERM: a stop could be cut off before its checkpoint is complete. "
            f"Launch with {_TIMEOUT}={enough} in the environment; a smaller checkpoint.every loses less"
        )


@contextmanager
def interruptible(launched: bool = False, tells: bool = True) -> Iterator[Stop]:
    """Within it Ctrl-C, SIGTERM and a lost terminal ask for a stop at the end of the window; see ``Stop``."""
    stop = Stop(launched or launcher_patience() is not None, tells)
    # What nohup has ignored stays ignored.
    numbers = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop.ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
