"""Work that runs ahead in a thread: the next batches are read, decoded and hashed while the model scores this one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

__all__ = ["run_ahead"]

T = TypeVar("T")
JOIN_SECONDS: Final = 10.0
"""How long a stopped thread may take to notice; it can be in the middle of a slow read, and dies with the process."""


@dataclass(frozen=True, slots=True)
class _End:
    """There is no more, or ``error`` was raised instead of it."""

    error: BaseException | None = None


@contextmanager
def run_ahead(items: Generator[T, None, None], depth: int) -> Iterator[Iterator[T]]:
    """The same items in the same order, made by a thread that is at most ``depth`` of them ahead.

    A thread is enough: file systems, zlib, the image decoders and hashlib let go of the interpreter while they work.
    What ``items`` raises is raised here, in its place. On leaving, the thread is told to stop and ``items`` is closed.

    Args:
        depth: items that wait at most; 0 makes each when it is asked for, without a thread.
    """
    if depth < 1:
        try:
            yield items
        finally:
            items.close()
        return
    waiting: queue.Queue[T | _End] = queue.Queue(depth)
    over = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, waiting, over), name="memsieve-ahead", daemon=True)
    thread.start()
    try:
        yield _drain(waiting)
    finally:
        over.set()
        thread.join(JOIN_SECONDS)


def _fill(items: Generator[T, None, None], waiting: queue.Queue[T | _End], over: threading.Event) -> None:
    end = _End()
    try:
        for item in items:
            if not _put(waiting, item, over):
                break
    except BaseException as error:  # handed to who asked for the items
        end = _End(error)
    finally:
        items.close()
    _put(waiting, end, over)


def _put(waiting: queue.Queue[T | _End], item: T | _End, over: threading.Event) -> bool:
    """Wait for room; False where nobody wants the item any more."""
    while not over.is_set():
        try:
            waiting.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


def _drain(waiting: queue.Queue[T | _End]) -> Iterator[T]:
    while True:
        item = waiting.get()
        if isinstance(item, _End):
            if item.error is not None:
                raise item.error
            return
        yield item
