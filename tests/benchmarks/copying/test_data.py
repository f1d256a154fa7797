"""The streams: what is planted comes as often as is said, and is told by the truth alone."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.copying.data import MIXED, NOTHING, PAPER, SMALL, Planted, build
from tests.benchmarks.copying.conftest import TINY


def files_of(folder: Path) -> dict[str, tuple[bytes, str]]:
    found: dict[str, dict[str, bytes]] = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None
                key, _, kind = member.name.partition(".")
                found.setdefault(key, {})[kind] = stream.read()
    return {key: (parts["png"], parts["txt"].decode()) for key, parts in found.items()}


def test_what_is_planted_comes_as_often_as_is_said(made: tuple[Path, list[dict[str, Any]]]) -> None:
    out, truth = made
    stream = [row for row in truth if row["part"] == "stream"]
    counts = Counter(row["case"] for row in stream)
    assert counts == {"exact 20": 4, "family 30": 6, "template 30": 6, "paraphrase 30": 6, "ordinary": 12, "rare": 3}
    files = files_of(out / "stream")
    assert set(files) == {row["key"] for row in stream}
    of = {case: [files[row["key"]] for row in stream if row["case"] == case] for case in counts}
    assert len(set(of["exact 20"])) == 1
    assert len({png for png, _ in of["family 30"]}) > 3 and len({said for _, said in of["family 30"]}) == 1
    assert len({png for png, _ in of["template 30"]}) == 6 and len({said for _, said in of["template 30"]}) == 1
    assert len({png for png, _ in of["paraphrase 30"]}) == 1 and len({said for _, said in of["paraphrase 30"]}) > 2
    assert all(max(Image.open(io.BytesIO(png)).size) <= 64 for png, _ in files.values())


def test_no_thing_is_on_both_sides_and_keys_say_nothing(made: tuple[Path, list[dict[str, Any]]]) -> None:
    _, truth = made
    bases = {part: {row["base"] for row in truth if row["part"] == part} for part in ("stream", "held_out")}
    assert bases["held_out"] and not bases["stream"] & bases["held_out"]
    single = [row["base"] for row in truth if row["part"] == "stream" and row["repeats"] == 1]
    planted = {row["base"] for row in truth if row["part"] == "stream" and row["repeats"] > 1}
    assert len(single) == len(set(single)) == 15 and not planted & set(single), "no variants, which are near-duplicates"
    keys = [row["key"] for row in truth if row["part"] == "stream"]
    repeated = [row["repeats"] > 1 for row in truth if row["part"] == "stream"]
    middle = len(keys) // 2
    assert sum(repeated[:middle]) > 3 and sum(repeated[middle:]) > 3, "not planted in one place"


def test_what_dedup_and_the_truth_leave(made: tuple[Path, list[dict[str, Any]]]) -> None:
    out, truth = made
    asked = json.loads((out / "dataset.json").read_text())["rows"]
    stream = [row for row in truth if row["part"] == "stream"]
    oracle, dedup = ([row for row in truth if row["part"] == part] for part in ("oracle", "dedup"))
    assert len(oracle) == len({row["pair"] for row in stream}) == 19
    assert len(dedup) == len({row["group"] for row in stream})
    assert asked["oracle"] <= asked["dedup_phash"] <= asked["dedup"] < asked["stream"]
    left = Counter(row["case"] for row in dedup)
    assert left["exact 20"] == 1 and left["paraphrase 30"] == 1 and left["template 30"] == 6 and left["family 30"] > 3


def test_the_same_seed_gives_the_same_stream_and_another_plants_others(tmp_path: Path) -> None:
    few = replace(TINY, limit=220)
    truths = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        build(tmp_path / name, few, seed=seed)
        truths[name] = pq.read_table(tmp_path / name / "truth.parquet").to_pylist()
    assert truths["again"] == truths["one"]
    bytes_of = [(tmp_path / name / "stream" / "00000.tar").read_bytes() for name in ("one", "again")]
    assert bytes_of[0] == bytes_of[1]
    rows = (truths["one"], truths["other"])
    planted = [{row["pair"] for row in truth if row["repeats"] > 1} for truth in rows]
    held_out = [{row["pair"] for row in truth if row["part"] == "held_out"} for truth in rows]
    assert planted[0] != planted[1] and held_out[0] == held_out[1]


def test_a_stream_that_is_there_is_not_built_again(made: tuple[Path, list[dict[str, Any]]]) -> None:
    out, _ = made
    before = (out / "truth.parquet").stat().st_mtime_ns
    assert build(out, TINY, seed=1)["asked"]["seed"] == 1
    assert (out / "truth.parquet").stat().st_mtime_ns == before


def test_exposures_must_come_out_of_the_passes() -> None:
    assert MIXED.repeats(Planted("exact", 400, 1)) == 80
    with pytest.raises(ValueError, match="exact 7: 5 passes do not make 7 exposures"):
        MIXED.repeats(Planted("exact", 7, 1))
    with pytest.raises(ValueError, match="exact 0"):
        MIXED.repeats(Planted("exact", 0, 1))


def test_the_published_streams_are_what_their_names_say() -> None:
    assert [(stream.ordinary, stream.passes) for stream in SMALL.values()] == [(20, 300), (100, 100), (300, 50)]
    assert not NOTHING.planted and NOTHING.rare
    repeated = sum(PAPER.repeats(p) * p.pairs for p in PAPER.planted)
    assert repeated / (repeated + PAPER.ordinary) == 0.25 and PAPER.caption_dropout == 0.0
    kinds = {(p.kind, p.exposures) for p in MIXED.planted}
    assert {("exact", 20), ("exact", 400), ("family", 400), ("template", 400), ("paraphrase", 400)} <= kinds
