"""From scores to keep-lists, clean shards, and training from either."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.select import Rule, select_rows, write_selection
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.keep_lists import rescore

Audit = Callable[..., Outcome]


def test_drop_fraction_takes_out_the_highest_pairs_with_all_their_copies(
    audit: Audit, mixed: Path, tmp_path: Path
) -> None:
    audit(mixed, tmp_path / "run", draws=2)

    def planted(row: dict[str, Any], i: int) -> dict[str, Any]:
        number = int(row["caption"].removeprefix("pair "))
        return row | {"magnitude": [100.0 - number, 100.0 - number]}

    rescore(tmp_path / "run", planted)
    selection = select_rows(tmp_path / "run", Rule(drop_fraction=2 / 24))
    away = selection.table.filter(pa.compute.equal(selection.table["reason"], "score"))
    assert len(away) == 9 + 1 and set(away["score"].to_pylist()) == {100.0, 99.0}
    assert selection.counts["no_caption"] == 1 and selection.counts["kept"] == 22
    assert selection.cutoff == 98.0
    assert "magnitude 100 is above 98" in away["detail"].to_pylist()
    by_score = select_rows(tmp_path / "run", Rule(max_score=98.5))
    assert by_score.table["keep"].equals(selection.table["keep"])


def test_dedup_keeps_the_first_of_each_image(audit: Audit, mixed: Path, tmp_path: Path) -> None:
    audit(mixed, tmp_path / "run", model=False)
    selection = select_rows(tmp_path / "run", Rule(dedup="sha256"))
    assert selection.counts == {"kept": 24, "duplicate": 8, "no_caption": 1}
    kept = selection.table.filter(selection.table["keep"])
    assert len(set(kept["sha256"].to_pylist())) == 24
    with pytest.raises(SettingsError, match="--data-only"):
        select_rows(tmp_path / "run", Rule(drop_fraction=0.1))


def test_reference_ratio_and_held_out_rate(audit: Audit, make_shards: Callable[..., Path], tmp_path: Path) -> None:
    """Pairs whose loss fell to a tenth of the base model's are found among ordinary ones, held-out pairs calibrate."""
    make_shards(tmp_path / "train", 16, per_shard=20)
    make_shards(tmp_path / "held", 19, per_shard=20, first=500)
    for name, data in (("run", "train"), ("held-run", "held")):
        audit(tmp_path / data, tmp_path / name, draws=2, batch_size=20)
    audit(f"{tmp_path}/train::{tmp_path}/held", tmp_path / "base", draws=3, batch_size=20)

    def memorised(row: dict[str, Any], i: int) -> dict[str, Any]:
        if int(row["caption"].removeprefix("pair ")) < 3:
            row["loss"] = [value / 10 for value in row["loss"]]
        return row

    rescore(tmp_path / "run", memorised)
    reference = {"reference": tmp_path / "base", "held_out": tmp_path / "held-run"}
    rule = Rule(signals=("reference_ratio",), false_drop_rate=0.05)
    selection = select_rows(tmp_path / "run", rule, **reference)
    away = selection.table.filter(pa.compute.equal(selection.table["reason"], "score"))
    assert len(away) == 3 and np.allclose(away["score"].to_pylist(), 0.9, atol=1e-3)
    both = select_rows(tmp_path / "run", Rule(false_drop_rate=0.05), **reference)
    found = both.table.filter(pa.compute.equal(both.table["reason"], "score"))["sha256"].to_pylist()
    assert set(away["sha256"].to_pylist()) <= set(found), "the default with a reference"
    with pytest.raises(SettingsError, match="at least 99 held-out pairs"):
        select_rows(tmp_path / "run", Rule(signals=("reference_ratio",), false_drop_rate=0.01), **reference)
    audit(tmp_path / "train", tmp_path / "other", draws=1, seed=1)
    with pytest.raises(SettingsError, match="differ in seed"):
        select_rows(tmp_path / "run", rule, reference=tmp_path / "other")


def test_an_incomplete_audit_is_refused_unless_asked(audit: Audit, mixed: Path, tmp_path: Path) -> None:
    audit(mixed, tmp_path / "run", model=False)
    next((tmp_path / "run" / "markers").iterdir()).unlink()
    with pytest.raises(SettingsError, match="1 of 4 shards are missing or stale"):
        select_rows(tmp_path / "run", Rule(dedup="sha256"))
    assert len(select_rows(tmp_path / "run", Rule(dedup="sha256"), partial=True).table) < 33


def test_lists_for_other_tools(audit: Audit, tmp_path: Path, png: Callable[[int], bytes]) -> None:
    """Text for people and scripts; DataComp's array, sorted as its resharder needs it."""
    uids = [hashlib.md5(bytes([i])).hexdigest() for i in range(6)]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, uid in enumerate(uids):
            parts = {"png": png(i % 5), "txt": b"a", "json": json.dumps({"uid": uid}).encode()}
            for suffix, data in parts.items():
                info = tarfile.TarInfo(f"k{i}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    audit(tmp_path / "a.tar", tmp_path / "run", model=False)
    selection = select_rows(tmp_path / "run", Rule(dedup="sha256"))
    write_selection(selection, tmp_path / "keep.npy")
    array = np.load(tmp_path / "keep.npy")
    assert array.dtype == np.dtype("u8,u8") and [f"{a:016x}{b:016x}" for a, b in array] == sorted(uids[:5])
    write_selection(selection, tmp_path / "keep.txt")
    lines = (tmp_path / "keep.txt").read_text().splitlines()
    assert [line.split("\t")[1:] for line in lines] == [[str(i), f"k{i}"] for i in range(5)]
    with pytest.raises(SettingsError, match=r"must end in"):
        write_selection(selection, tmp_path / "keep.csv")


def test_npy_needs_uids(audit: Audit, mixed: Path, tmp_path: Path) -> None:
    audit(mixed, tmp_path / "run", model=False)
    with pytest.raises(SettingsError, match="24 of 24 kept samples have no 'uid'"):
        write_selection(select_rows(tmp_path / "run", Rule(dedup="sha256")), tmp_path / "keep.npy")
