"""The data: levels and hard cases as the spec says, and what is left of them after deduplication."""

from __future__ import annotations

from pathlib import Path

from benchmarks.quality.data import build
from tests.benchmarks.quality.conftest import SPEC, truth_of


def test_the_stream_holds_what_the_spec_says(data: Path) -> None:
    stream = truth_of(data, "stream")
    counts: dict[str, set[str]] = {}
    for row in stream:
        counts.setdefault(row["case"], set()).add(row["pair"])
    assert {case: len(pairs) for case, pairs in counts.items()} == {
        "level 12": 2, "level 24": 2, "paraphrase": 1, "near_duplicate": 1, "template": 1, "rare": 6, "clean": 30,
    }  # fmt: skip
    assert len(stream) == 2 * 6 + 2 * 12 + 3 * 8 + 36
    held = {row["base"] for row in truth_of(data, "held_out")}
    assert held
    assert not held & {row["base"] for row in stream}


def test_hard_cases_are_what_they_are_called(data: Path) -> None:
    def distinct(case: str) -> tuple[int, int]:
        rows = [row for row in truth_of(data, "stream") if row["case"] == case]
        return len({row["group"] for row in rows}), len({row["caption"] for row in rows})

    images, captions = distinct("paraphrase")
    assert images == 1
    assert captions > 3
    for case in ("near_duplicate", "template"):
        images, captions = distinct(case)
        assert images > 5
        assert captions == 1


def test_parts_hold_each_image_and_each_pair_once(data: Path) -> None:
    stream, dedup, oracle = (truth_of(data, part) for part in ("stream", "dedup", "oracle"))
    assert sorted(row["group"] for row in dedup) == sorted({row["group"] for row in stream})
    assert sorted(row["pair"] for row in oracle) == sorted({row["pair"] for row in stream})
    assert len(oracle) < len(truth_of(data, "dedup_phash")) <= len(dedup)


def test_seeds_plant_other_pairs_and_hold_out_the_same(data: Path, tmp_path: Path) -> None:
    build(tmp_path / "seed1", 1, SPEC)

    def planted(folder: Path) -> set[str]:
        return {row["pair"] for row in truth_of(folder, "stream") if row["repeats"] > 1}

    assert planted(data) != planted(tmp_path / "seed1")
    held = [{row["group"] for row in truth_of(folder, "held_out")} for folder in (data, tmp_path / "seed1")]
    assert held[0] == held[1]
