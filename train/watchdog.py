"""Ranks tell each other where they are, so that when one fails the others end, and say which one and where.

Each rank keeps one entry (stage, step, a beat that counts up) in the process group's key-value store, renewed by a
thread every few seconds. That costs two small requests a beat and no collective. The thread sees three things that
would otherwise end in a silent wait: another rank's report of its own failure, a neighbour that has gone quiet (killed,
or its node lost), and a stage of its own that has lasted longer than ``train.timeout``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch.distributed as dist

__all__ = ["RankFailure", "Watch"]

SILENCE: Final = 60.0
"""Seconds without a beat after which a rank counts as gone (or ``train.timeout``, where that is less)."""
_FAILED: Final = "memsieve/failed"
_COLLECTIVE: Final = re.compile(r"gloo|nccl|connection (closed|reset)|timed out|broken pipe|watchdog", re.IGNORECASE)


class RankFailure(RuntimeError):
    """Another rank has failed; the message names it and the last stage that it reached."""


class Watch:
    """Watches the other ranks while this one works; with one process it does nothing.

    A stage that lasts longer than ``timeout`` is the end, unless some rank shows life meanwhile: a resume may have to
    pass more rows than can be passed in that time.

    Args:
        rank, world_size: of this process.
        timeout: ``train.timeout``, seconds.
        store: the process group's store; by default the present one's.
    """

    def __init__(self, rank: int, world_size: int, timeout: float, store: Any = None) -> None:
        self.rank, self.world_size, self.timeout = rank, world_size, timeout
        self.silence = min(SILENCE, timeout)
        self.beat = max(0.2, min(2.0, timeout / 20))
        self._stage, self._step, self._since, self._beats = "starting", 0, time.monotonic(), 0
        self._heard: dict[int, tuple[int, float]] = {}
        self._life: Callable[[], int] = lambda: 0
        self._lives: list[int] = []
        self._looked, self._alive = 0.0, 0.0
        self._meetings = 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        if world_size > 1:
            self._store = store if store is not None else _own_connection()
            self._publish()
            self._thread = threading.Thread(target=self._run, name="memsieve-watch", daemon=True)
            self._thread.start()

    def enter(self, stage: str, step: int) -> None:
        """This rank begins ``stage`` (a word or two) of ``step``."""
        self._stage, self._step, self._since = stage, step, time.monotonic()

    def show(self, life: Callable[[], int]) -> None:
        """``life()`` grows while this rank's work goes on; called from the thread."""
        self._life = life

    def meet(self) -> None:
        """Wait until all ranks are here, as long as they show life: unlike a collective, which has a limit of its own.

        Raises:
            RankFailure: another rank failed meanwhile.
        """
        if self.world_size == 1:
            return
        self._meetings += 1
        name = f"memsieve/meeting{self._meetings}"
        self._store.add(name, 1)
        while self._store.add(name, 0) < self.world_size:
            if (failed := self._failed()) is not None:
                self._over.set()
                raise RankFailure(self._sentence(failed))
            time.sleep(min(self.beat, 0.2))

    def close(self) -> None:
        """The run is over on this rank: its silence from now on means nothing."""
        if self._thread is not None and not self._over.is_set():
            self._over.set()
            self._thread.join()
            self.enter("done", self._step)
            with contextlib.suppress(RuntimeError):  # the store's host may have left already
                self._publish()

    @contextlib.contextmanager
    def guard(self, *alike: type[Exception]) -> Iterator[None]:
        """Run a part of the run; errors other than ``alike``, which all ranks raise together, are told to the others.

        Raises:
            RankFailure: a collective failed because of another rank.
        """
        try:
            yield
        except KeyboardInterrupt:
            self.close()
            raise
        except alike:
            self.close()
            raise
        except Exception as error:
            if self.world_size == 1:
                raise
            if isinstance(error, dist.DistError) or _COLLECTIVE.search(str(error)):
                reason = self._blame()
                self._over.set()
                raise RankFailure(self._sentence(reason)) from error
            self._over.set()
            with contextlib.suppress(RuntimeError):
                self._store.set(_FAILED, f"rank {self.rank} failed at {self._where()}: {_line(error)}")
            raise

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._over.wait(self.beat):
            try:
                self._publish()
                reason = self._reason()
            except RuntimeError as error:
                reason = f"the ranks' common store, held by the launcher or rank 0, does not answer ({_line(error)})"
            if reason is not None:
                self._end(reason)

    def _reason(self) -> str | None:
        """Why this rank must end although its own work has not failed."""
        if (failed := self._failed()) is not None:
            return failed
        neighbour = (self.rank + 1) % self.world_size
        if self._quiet(neighbour) > self.silence:
            return self._gone(neighbour)
        if time.monotonic() - max(self._since, self._last_life()) > self.timeout and self._stage != "done":
            return f"waited {self.timeout:g} s (train.timeout); {self._blame(wait=0.0)}"
        return None

    def _last_life(self) -> float:
        """When some rank was last seen to get on with its work. All are looked at a few times in each ``timeout``, once
        this rank has waited for so long."""
        now = time.monotonic()
        if now - max(self._since, self._looked) > self.timeout / 8:
            seen = [int(self._read(rank).get("life", 0)) for rank in range(self.world_size)]
            if self._lives and seen != self._lives:
                self._alive = now
            self._lives, self._looked = seen, now
        return self._alive

    def _end(self, reason: str) -> None:
        """Leave a few seconds to the main thread, whose collective may fail with the same news, then stop."""
        until = time.monotonic() + min(10.0, 2 * self.silence)
        while not self._over.wait(self.beat):
            if time.monotonic() > until:
                print(f"error: {self._sentence(reason)}", file=sys.stderr, flush=True)
                os._exit(1)  # the main thread may be inside a collective that never returns
            with contextlib.suppress(RuntimeError):
                self._publish()  # to be late is not to be gone

    # -- the board ------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        self._beats += 1
        entry = {"stage": self._stage, "step": self._step, "beat": self._beats, "life": self._life()}
        self._store.set(f"memsieve/rank{self.rank}", json.dumps(entry))

    def _read(self, rank: int) -> dict[str, Any]:
        key = f"memsieve/rank{rank}"
        if not self._store.check([key]):
            return {"stage": "starting", "step": 0, "beat": 0}
        entry: dict[str, Any] = json.loads(self._store.get(key))
        return entry

    def _failed(self) -> str | None:
        return self._store.get(_FAILED).decode() if self._store.check([_FAILED]) else None

    def _quiet(self, rank: int) -> float:
        """Seconds since ``rank`` was seen to beat; 0 once it is done."""
        entry, now = self._read(rank), time.monotonic()
        beat, at = self._heard.get(rank, (-1, now))
        if entry["beat"] != beat:
            self._heard[rank] = (entry["beat"], now)
            return 0.0
        return 0.0 if entry["stage"] == "done" else now - at

    def _blame(self, wait: float | None = None) -> str:
        """Whose fault a failed or endless collective is: a reported failure, else silence, else a rank that lags."""
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        until = time.monotonic() + (min(self.silence, 6 * self.beat) if wait is None else wait)
        try:
            while True:
                if (failed := self._failed()) is not None:
                    return failed
                quiet = {rank: self._quiet(rank) for rank in others}
                gone = [rank for rank in others if quiet[rank] > 3 * self.beat]
                if gone or time.monotonic() >= until:
                    break
                time.sleep(self.beat / 4)
        except RuntimeError:
            return "the process that holds the ranks' common store (the launcher or rank 0) is gone"
        return self._gone(gone[0]) if gone else self._behind(others)

    def _gone(self, rank: int) -> str:
        return f"rank {rank} has ended or does not answer; it was last seen at {_place(self._read(rank))}"

    def _behind(self, others: list[int]) -> str:
        places = {rank: self._read(rank) for rank in others}
        rank = min(others, key=lambda rank: (places[rank]["step"], places[rank]["stage"] == self._stage, rank))
        return f"no rank reports a failure; rank {rank} is at {_place(places[rank])}"

    def _where(self) -> str:
        return _place({"stage": self._stage, "step": self._step})

    def _sentence(self, reason: str) -> str:
        return (
            f"{reason}. Rank {self.rank} of {self.world_size} ends at {self._where()}; the same command goes on from "
            "the last checkpoint"
        )


def _own_connection() -> Any:
    """To the process group's store, since the group itself may hold its own connection for long."""
    store: Any = dist.distributed_c10d._get_default_store()
    return store.clone() if hasattr(store, "clone") else store  # older torch has no clone


def _place(entry: dict[str, Any]) -> str:
    return f"step {entry['step']}, {entry['stage']}"


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
