"""What an audit takes out and what comes back, by pairs and by how often they were planted."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.audit.planted import PLANT, SEEDS, SIGNALS, Planted, _by_repeats
from memsieve.filtering.data.openmoji.planting import parse_plant
from memsieve.filtering.signals import SIGNALS as KNOWN
from memsieve.inference.copies.judge import CopyVerdict
from memsieve.inference.copies.probe import Prompt
from memsieve.inference.copies.rate import wilson_interval


def test_what_is_planted_and_scored_exists() -> None:
    assert all(parse_plant(text).count >= 6 for text in PLANT)
    assert {name for names in SIGNALS for name in names.split("+")} <= set(KNOWN)


def test_a_pair_counts_once_however_often_it_stands_in_the_shards(tmp_path: Path) -> None:
    """Of two pairs of 3 repeats one is taken out, in all of its rows; of three others none, and one of 10 is."""
    names = {"a": 3, "b": 3, "c": 1, "d": 1, "e": 1, "f": 10}
    rows = [{"group": name * 32, "repeats": times} for name, times in names.items() for _ in range(times)]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "truth.parquet")
    keep = [(row["group"] + "more of the digest", row["group"][0] not in "af") for row in rows]
    assert Planted(tmp_path, 1)._taken(keep) == {
        "1": {"pairs": 3, "taken": 0}, "3": {"pairs": 2, "taken": 1}, "10": {"pairs": 1, "taken": 1},
    }  # fmt: skip


def test_copies_are_counted_of_those_planted_alike_with_intervals_over_pairs() -> None:
    """Four generations a pair: one of two pairs comes back in all of them, and the interval is that of two pairs."""
    prompts = [Prompt(name, name, name, repeats) for name, repeats in (("a", 100), ("b", 100), ("c", 0), ("d", 1))]
    verdicts = [
        CopyVerdict(prompt.group, prompt.group, prompt.key, 0.1, 0.1, 0.01, True, prompt.group == "a")
        for prompt in prompts
        for _ in range(SEEDS)
    ]
    found = _by_repeats(prompts, verdicts)
    assert list(found) == ["1", "100"]
    assert (found["100"]["copies"], found["100"]["generations"], found["100"]["prompts"]) == (SEEDS, 2 * SEEDS, 2)
    assert (found["100"]["low"], found["100"]["high"]) == (0.0, 1.0), "either pair, or both"
    assert (found["1"]["low"], found["1"]["high"]) == pytest.approx(wilson_interval(0.0, 2))
