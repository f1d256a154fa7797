"""Loader workers beside the signals of their rank: who asks the rank to stop must not take its workers away.

A launcher signals a rank's whole process group, a scheduler every process of the job. A worker that dies of it ends
the rank with "DataLoader worker is killed by signal", before the rank can save.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["STOPS", "keep_until_parent_ends", "stops_held"]

STOPS: Final = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}
"""What asks a process to stop: Ctrl-C, a scheduler, a terminal that goes away (Windows has no word for it)."""


@contextmanager
def stops_held() -> Iterator[None]:
    """While workers are started: a request to stop waits, in this thread and in what it forks.

    A worker that has it before ``keep_until_parent_ends`` ran would die, or take its parent's handler for its own.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def keep_until_parent_ends(worker: int) -> None:
    """For ``worker_init_fn`` of a DataLoader: the worker ends when its parent ends it, or has ended, not otherwise."""
    ignored = STOPS - {signal.SIGTERM}
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS: no way to see whose SIGTERM it is
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        return
    # Blocked in this thread and in those that it starts, so that the one below takes every SIGTERM.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ignored)  # held since the fork
    threading.Thread(target=_heed, args=(os.getppid(),), name="memsieve-sigterm", daemon=True).start()


def _heed(parent: int) -> None:
    """Heed a SIGTERM from ``parent``, by which DataLoader ends workers, and no other's."""
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)
