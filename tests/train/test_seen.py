"""What a run remembers of the samples it read: little in memory, next to nothing in a checkpoint."""

from __future__ import annotations

import gc
import hashlib
import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memsieve.filtering.types import group_name
from memsieve.train.seen import GroupCounts, SeenSamples, read_seen

LONG = "a name that is longer than what travels between ranks: " + "x" * 40


def content(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()[:32]


def saved(state: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
    return stream.getvalue()


def test_a_group_that_was_read_takes_few_bytes_in_memory_and_none_in_a_checkpoint(tmp_path: Path) -> None:
    count = 5000
    seen = SeenSamples(tmp_path, part=500)
    seen.note("first", "", "", "")
    seen.flush()  # what pyarrow imports, once
    gc.collect()
    tracemalloc.start()
    for number in range(count):
        seen.note(content(number), f"{number:09d}", f"data/{number // 1000:05d}.tar", f"a caption of pair {number}")
    seen.flush()
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / count < 64, "a key, a shard and a caption as Python strings take 500"
    assert len(seen) == count + 1 and len(saved(seen.state_dict())) < 2000


def test_counts_of_groups_take_few_bytes(tmp_path: Path) -> None:
    counts = GroupCounts()
    for number in range(5000):
        counts.add([content(number)] * (1 + number % 2))
    state = counts.state_dict()
    assert len(saved(state)) < 5000 * 24
    again = GroupCounts()
    again.load_state_dict(state)
    for each in (counts, again):
        each.add([content(0), LONG])
    assert again.table("n").equals(counts.table("n"))
    table = dict(zip(*(again.table("n")[name].to_pylist() for name in ("group", "n")), strict=True))
    assert table[content(0)] == 2 and table[content(1)] == 2 and table[content(2)] == 1 and table[group_name(LONG)] == 1


def test_samples_are_found_written_or_not_and_the_first_of_a_group_stays(tmp_path: Path) -> None:
    seen = SeenSamples(tmp_path, part=4)
    for number in range(10):
        for visit in "ab":
            seen.note(f"g{number}", f"key {number}{visit}", "s.tar", f"caption {number}")
    seen.note(LONG, "long", "s.tar", "its caption")
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    found = seen.find(["g0", "g5", "g9", "nobody", group_name(LONG)])
    assert found == {
        "g0": ["key 0a", "s.tar", "caption 0"], "g5": ["key 5a", "s.tar", "caption 5"],
        "g9": ["key 9a", "s.tar", "caption 9"], group_name(LONG): ["long", "s.tar", "its caption"],
    }  # fmt: skip


@pytest.mark.parametrize("missing", [False, True])
def test_a_resume_goes_on_from_the_samples_that_the_checkpoint_knows(tmp_path: Path, missing: bool) -> None:
    def note(seen: SeenSamples, numbers: range) -> None:
        for number in numbers:
            seen.note(content(number), f"key {number}", "", "")

    first = SeenSamples(tmp_path, part=4)
    note(first, range(10))
    state = first.state_dict()
    note(first, range(100, 120))  # done again after the resume
    again = SeenSamples(tmp_path, resumed=True, part=4)
    if missing:
        sorted(tmp_path.iterdir())[1].unlink()
        with pytest.raises(ValueError, match=r"holds 4 of the 10 samples .* start a new run folder"):
            again.load_state_dict(state)
        return
    again.load_state_dict(state)
    assert len(again) == 10 and not again.find([content(100)])
    note(again, range(5, 15))
    again.flush()
    table = read_seen([tmp_path])
    assert table["key"].to_pylist() == [f"key {number}" for number in range(15)]
    assert again.find([content(12)]) == {content(12): ["key 12", "", ""]}
    assert len(SeenSamples(tmp_path)) == 0 and not list(tmp_path.iterdir()), "a run that begins anew"


def test_the_samples_of_several_ranks_are_one_table(tmp_path: Path) -> None:
    for rank, numbers in enumerate(([0, 1, 2], [2, 3], [])):
        seen = SeenSamples(tmp_path / f"rank{rank}")
        for number in numbers:
            seen.note(content(number), f"rank {rank}", "", "")
        seen.flush()
    table = read_seen(tmp_path / f"rank{rank}" for rank in range(3))
    assert table["group"].to_pylist() == [content(number) for number in range(4)]
    assert table["key"].to_pylist() == ["rank 0"] * 3 + ["rank 1"]
    assert np.all(np.array(read_seen([tmp_path / "none"]).shape) == (0, 4))
