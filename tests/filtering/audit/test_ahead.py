"""Batches that are read ahead: the same ones, no more of them than asked for, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from memsieve.filtering.audit.ahead import run_ahead
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.data.shards import read_shard

Audit = Callable[..., Outcome]
Read = Callable[[Path], pa.Table]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "memsieve-ahead"]


class Counted:
    """Numbers, and how many of them were made."""

    def __init__(self, count: int, fail_at: int | None = None) -> None:
        self.count, self.fail_at = count, fail_at
        self.made, self.closed = 0, False

    def items(self) -> Generator[int, None, None]:
        try:
            for number in range(self.count):
                if number == self.fail_at:
                    raise OSError(28, "no room")
                self.made += 1
                yield number
        finally:
            self.closed = True


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_order_errors_and_bounds(depth: int) -> None:
    source = Counted(50)
    with run_ahead(source.items(), depth) as items:
        for number in items:
            time.sleep(0.002)
            assert source.made <= number + depth + 2, "one more is in the thread's hands"
    assert source.made == 50 and source.closed and not threads()
    source = Counted(50, fail_at=7)
    seen: list[int] = []
    with pytest.raises(OSError, match="no room"), run_ahead(source.items(), depth) as items:
        seen.extend(items)
    assert seen == list(range(7)) and source.closed and not threads()


@pytest.mark.parametrize("depth", [0, 2])
def test_leaving_early_stops_the_thread(depth: int) -> None:
    source = Counted(10**9)
    with run_ahead(source.items(), depth) as items:
        assert [next(items) for _ in range(6)] == list(range(6))
    assert source.closed and source.made <= 5 + depth + 2 and not threads()


def test_rows_are_the_same_with_and_without(
    audit: Audit, make_shards: Callable[..., Path], tmp_path: Path, read_rows: Read
) -> None:
    """Bit by bit, and from another thread than the one that scores."""
    data = make_shards(tmp_path / "data", 22, per_shard=8, copies=2)
    (data / "00001.tar").write_bytes((data / "00001.tar").read_bytes()[:9000])
    for depth in (0, 1, 4):
        assert len(audit(data, tmp_path / str(depth), draws=2, prefetch=depth).done) == 3
    first = read_rows(tmp_path / "0")
    assert read_rows(tmp_path / "1").equals(first) and read_rows(tmp_path / "4").equals(first)


def test_the_next_shard_is_read_while_one_is_scored(
    audit: Audit, make_shards: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_shards(tmp_path / "data", 24, per_shard=4)
    opened: list[tuple[str, bool]] = []

    def noted(path: str, config: Any) -> Any:
        opened.append((Path(path).name, threading.current_thread() is threading.main_thread()))
        return read_shard(path, config)

    monkeypatch.setattr("memsieve.filtering.audit.tasks.read_shard", noted)
    at_first: list[int] = []
    audit(
        data, tmp_path / "run", draws=1, prefetch=6, advance=lambda *_: (time.sleep(0.3), at_first.append(len(opened)))
    )
    assert [name for name, _ in opened] == [f"{i:05d}.tar" for i in range(6)] and not any(main for _, main in opened)
    assert at_first[0] >= 2, "a shard is opened before the first one is done"


def test_a_shard_that_cannot_be_reached_costs_itself_alone(
    audit: Audit, make_shards: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that vanishes between the plan and its turn, at its beginning."""
    data = make_shards(tmp_path / "data", 12, per_shard=4)
    outcome = audit(data, tmp_path / "run", draws=1, prefetch=0, begin=lambda plan: Path(plan.todo[1].name).unlink())
    assert sorted(Path(name).name for name in outcome.done) == ["00000.tar", "00002.tar"]
    ((name, why),) = outcome.failed.items()
    assert name.endswith("00001.tar") and "cannot be reached" in why
