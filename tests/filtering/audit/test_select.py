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
import pyarrow.parquet as pq
import pytest

from memsieve.filtering.audit.apply import apply_keep_list
from memsieve.filtering.audit.records import SCORES_SCHEMA
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.select import Rule, select_rows, write_selection
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.loader import WindowLoader
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.settings import SettingsError

Audit = Callable[..., Outcome]


def members(path: Path) -> dict[str, str]:
    """sha256 of every member of a tar, by name, in order."""
    with tarfile.open(path) as tar:
        return {info.name: hashlib.sha256(tar.extractfile(info).read()).hexdigest() for info in tar}  # type: ignore[union-attr]


@pytest.fixture
def folder(make_shards: Callable[..., Path], tmp_path: Path) -> Path:
    """Four shards of 8: 24 pairs, the first of them 8 more times, and one sample without a caption."""
    make_shards(tmp_path / "data", 24, per_shard=8, copies=8)
    with tarfile.open(tmp_path / "data" / "00001.tar", "a") as tar:
        info = tarfile.TarInfo("lonely.png")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    return tmp_path / "data"


def rescore(out: Path, change: Callable[[dict[str, Any], int], dict[str, Any]]) -> None:
    """Give an audit's rows other numbers, where a test needs to know what is right."""
    for file in (out / "scores").glob("*.parquet"):
        marker = out / "markers" / f"{file.stem}.json"
        table = pq.read_table(file)
        rows = [change(row, i) if row["n_draws"] else row for i, row in enumerate(table.to_pylist())]
        pq.write_table(pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), file)
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"parquet_bytes": file.stat().st_size}))


def test_drop_fraction_takes_out_the_highest_pairs_with_all_their_copies(
    audit: Audit, folder: Path, tmp_path: Path
) -> None:
    audit(folder, tmp_path / "run", draws=2)

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


def test_dedup_keeps_the_first_of_each_image(audit: Audit, folder: Path, tmp_path: Path) -> None:
    audit(folder, tmp_path / "run", model=False)
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


def test_held_out_rate_is_the_conformal_one(audit: Audit, make_shards: Callable[..., Path], tmp_path: Path) -> None:
    make_shards(tmp_path / "train", 20, per_shard=20)
    make_shards(tmp_path / "held", 19, per_shard=20, first=500)
    audit(tmp_path / "train", tmp_path / "run", draws=1)
    audit(tmp_path / "held", tmp_path / "held-run", draws=1)
    rescore(tmp_path / "held-run", lambda row, i: row | {"magnitude": [float(i)]})  # 0 ... 18
    rescore(tmp_path / "run", lambda row, i: row | {"magnitude": [float(i)]})
    for rate in (0.05, 0.1, 0.25):
        selection = select_rows(tmp_path / "run", Rule(false_drop_rate=rate), held_out=tmp_path / "held-run")
        expected = [(1 + sum(h >= m for h in range(19))) / 20 > rate for m in range(20)]
        assert selection.table["keep"].to_pylist() == expected, rate


def test_held_out_rate_allows_for_what_training_did_to_all(
    audit: Audit, make_shards: Callable[..., Path], tmp_path: Path
) -> None:
    """Ordinary training pairs lie a little above held-out ones and farther apart; a few pairs lie far above them."""
    make_shards(tmp_path / "train", 60, per_shard=60)
    make_shards(tmp_path / "held", 39, per_shard=39, first=500)
    audit(tmp_path / "train", tmp_path / "run", draws=1)
    audit(tmp_path / "held", tmp_path / "held-run", draws=1)
    rescore(tmp_path / "held-run", lambda row, i: row | {"magnitude": [float(i)]})  # 0 ... 38, median 19

    def trained(row: dict[str, Any], i: int) -> dict[str, Any]:
        value = 20.0 + 1.5 * (i % 57) if i < 57 else 500.0  # 20 ... 104, and three memorised
        return row | {"magnitude": [value]}

    rescore(tmp_path / "run", trained)
    selection = select_rows(tmp_path / "run", Rule(false_drop_rate=0.05), held_out=tmp_path / "held-run")
    keep = selection.table["keep"].to_pylist()
    assert keep == [i < 57 for i in range(60)]
    plain = max(float(i) for i in range(39)) - 1.0  # the cut among held-out pairs: one of 39 may score as high
    assert selection.cutoff is not None and selection.cutoff > plain + 40, "most would lie above it"


def test_an_incomplete_audit_is_refused_unless_asked(audit: Audit, folder: Path, tmp_path: Path) -> None:
    audit(folder, tmp_path / "run", model=False)
    next((tmp_path / "run" / "markers").iterdir()).unlink()
    with pytest.raises(SettingsError, match="1 of 4 shards are missing or stale"):
        select_rows(tmp_path / "run", Rule(dedup="sha256"))
    assert len(select_rows(tmp_path / "run", Rule(dedup="sha256"), partial=True).table) < 33


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(), "give --drop-fraction"),
        (Rule(drop_fraction=0.1, max_score=1.0), "give one of"),
        (Rule(drop_fraction=1.5), "between 0 and 1"),
    ],
)
def test_rules_that_make_no_sense(rule: Rule, message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        select_rows(tmp_path, rule)


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


def test_npy_needs_uids(audit: Audit, folder: Path, tmp_path: Path) -> None:
    audit(folder, tmp_path / "run", model=False)
    with pytest.raises(SettingsError, match="24 of 24 kept samples have no 'uid'"):
        write_selection(select_rows(tmp_path / "run", Rule(dedup="sha256")), tmp_path / "keep.npy")


def kept_list(audit: Audit, source: Path | str, tmp_path: Path, **options: Any) -> Path:
    audit(source, tmp_path / "run", model=False, **options)
    write_selection(select_rows(tmp_path / "run", Rule(dedup="sha256")), tmp_path / "keep.parquet")
    return tmp_path / "keep.parquet"


def test_apply_copies_bytes_and_sets_the_rest_aside(audit: Audit, folder: Path, tmp_path: Path) -> None:
    before = {path.name: members(path) for path in sorted(folder.glob("*.tar"))}
    keep = kept_list(audit, folder, tmp_path)
    done = apply_keep_list(keep, tmp_path / "clean")
    assert (done.kept, dict(done.rejected), done.shards) == (24, {"duplicate": 8, "no_caption": 1}, 4)
    listed = pq.read_table(keep).to_pylist()
    for name, old in before.items():
        kept, away = members(tmp_path / "clean" / name), {}
        if (tmp_path / "clean" / "rejected" / name).exists():
            away = members(tmp_path / "clean" / "rejected" / name)
            reasons = (tmp_path / "clean" / "rejected" / name).with_suffix(".jsonl").read_text().splitlines()
            wanted = [row for row in listed if row["shard"].endswith(name) and not row["keep"]]
            assert [json.loads(line)["key"] for line in reasons] == [row["key"] for row in wanted]
            assert all(json.loads(line)["detail"] == row["detail"] for line, row in zip(reasons, wanted, strict=True))
        assert {**kept, **away} == old and len(kept) + len(away) == len(old)
        assert list(kept) == [member for member in old if member in kept], "order is kept"
        names = {row["key"] for row in listed if row["shard"].endswith(name) and row["keep"]}
        assert {member.split(".")[0] for member in kept} == names
    assert json.loads((tmp_path / "clean" / "manifest.json").read_text())["kept"] == 24
    again = apply_keep_list(keep, tmp_path / "clean")
    assert (again.kept, again.shards, again.skipped) == (24, 0, 4)


def test_apply_refuses_what_changed(
    audit: Audit, folder: Path, tmp_path: Path, make_shards: Callable[..., Path]
) -> None:
    keep = kept_list(audit, folder, tmp_path)
    make_shards(tmp_path / "other", 8, per_shard=8, first=900)
    (folder / "00002.tar").write_bytes((tmp_path / "other" / "00000.tar").read_bytes())
    with pytest.raises(SettingsError, match=r"00002.tar.*is not what was audited"):
        apply_keep_list(keep, tmp_path / "clean")
    assert not (tmp_path / "clean" / "00002.tar").exists()
    with pytest.raises(SettingsError, match="already holds shards"):
        apply_keep_list(keep, folder)


@pytest.mark.parametrize("compression", ["gz", "xz"])
def test_apply_reads_compressed_shards(audit: Audit, folder: Path, tmp_path: Path, compression: str) -> None:
    (tmp_path / "packed").mkdir()
    old = members(folder / "00000.tar")
    with (
        tarfile.open(folder / "00000.tar") as tar,
        tarfile.open(tmp_path / "packed" / f"00000.tar.{compression}", f"w:{compression}") as packed,
    ):
        for info in tar:
            packed.addfile(info, tar.extractfile(info))
    keep = kept_list(audit, tmp_path / "packed" / f"00000.tar.{compression}", tmp_path)
    apply_keep_list(keep, tmp_path / "clean")
    away = tmp_path / "clean" / "rejected" / "00000.tar"
    assert members(tmp_path / "clean" / "00000.tar") | (members(away) if away.exists() else {}) == old


def stream(config: DataConfig, epochs: int = 2, stop: int | None = None) -> tuple[list[Any], dict[str, int], int]:
    """(key, caption, position, pixels) of all rows of a source, what a keep-list took out, and failures; with
    ``stop`` the loader is closed after that many windows and a new one goes on from its state."""
    rows: list[Any] = []
    not_kept: dict[str, int] = {}
    failed = 0
    loader = WindowLoader(config, 4, seed=3, max_epochs=epochs)
    while True:
        for count, window in enumerate(loader, start=1):
            for row in window.rows:
                if row is not None:
                    rows.append((row.key, row.caption, row.epoch, row.offset, row.pixels.sum().item()))
            for reason, number in window.not_kept.items():
                not_kept[reason] = not_kept.get(reason, 0) + number
            failed += len(window.failed)
            if count == stop:
                break
        else:
            return rows, not_kept, failed
        loader, stop = WindowLoader(config, 4, seed=3, max_epochs=epochs, state=loader.state_dict()), None


@pytest.mark.parametrize("buffer", [0, 6])
def test_a_keep_list_is_the_same_as_the_shards_made_of_it(
    audit: Audit, folder: Path, tmp_path: Path, buffer: int
) -> None:
    """Same samples at the same positions, so the same draws: the run is the same, and what is not kept is counted."""
    keep = kept_list(audit, folder, tmp_path)
    apply_keep_list(keep, tmp_path / "clean")
    plain = {"resolution": 16, "shuffle_buffer": buffer, "streams": 2, "held_out_fraction": 0.1}
    by_list = DataConfig.model_validate({"path": str(folder), "keep_list": str(keep), **plain})
    rows, not_kept, failed = stream(by_list)
    applied, nothing, _ = stream(DataConfig.model_validate({"path": str(tmp_path / "clean"), **plain}))
    assert rows == applied and len(rows) > 30
    assert not_kept == {"duplicate": 16, "no_caption": 2} and nothing == {} and failed == 0
    for stop in (1, 5):
        again, counted, _ = stream(by_list, stop=stop)
        assert again == rows and counted == not_kept, "the same when it is stopped and resumed"


@pytest.mark.parametrize("kind", ["hf", "folder"])
def test_keep_lists_of_datasets_and_folders(
    audit: Audit, tmp_path: Path, png: Callable[[int], bytes], kind: str
) -> None:
    path = tmp_path / "data"
    pictures = [png(i if i % 3 else 0) for i in range(12)]
    if kind == "hf":
        import datasets

        columns = {"image": [{"bytes": data, "path": None} for data in pictures], "text": [f"p{i}" for i in range(12)]}
        features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(path))
    else:
        path.mkdir()
        for i, data in enumerate(pictures):
            (path / f"{i:03}.png").write_bytes(data)
            (path / f"{i:03}.txt").write_text(f"p{i}")
    options = {"format": kind, "image_key": "image;png"}
    keep = kept_list(audit, path, tmp_path, data=options)
    config = DataConfig.model_validate(
        {"path": str(path), "keep_list": str(keep), "resolution": 16, "streams": 2, "held_out_fraction": 0, **options}
    )
    rows, not_kept, _ = stream(config, epochs=1)
    assert sorted(row[1] for row in rows) == sorted(f"p{i}" for i in range(12) if i % 3 or i == 0)
    assert not_kept == {"duplicate": 3}
    with pytest.raises(SettingsError, match=r"which has no shards to write"):
        apply_keep_list(keep, tmp_path / "clean")


@pytest.mark.parametrize("change", ["cut", "shorter"])
def test_kept_rows_that_a_shard_has_lost_since_its_audit_fail_and_are_not_called_not_kept(
    audit: Audit, folder: Path, tmp_path: Path, change: str
) -> None:
    """The shard ends before a row that is not kept, with kept ones behind it."""
    keep = kept_list(audit, folder, tmp_path)
    table = pq.read_table(keep)
    rows = [row for row in table.to_pylist() if row["shard"].endswith("00000.tar")]
    away = next(row["index"] for row in rows if row["index"] and not row["keep"])
    assert any(row["keep"] for row in rows[away:])
    path = folder / "00000.tar"
    spans = [row.span for row in read_shard(str(path), DataConfig(path="unused"))]
    end = bytes(1024) if change == "shorter" else b""
    path.write_bytes(path.read_bytes()[: spans[away][0]] + end)
    config = {"path": str(folder), "keep_list": str(keep), "resolution": 16, "held_out_fraction": 0.0}
    for buffer in (0, 4):
        data = DataConfig.model_validate({**config, "streams": 1, "shuffle_buffer": buffer})
        found, not_kept, failed = stream(data)
        assert failed >= 2, "at least once a pass"
        assert stream(data, stop=1) == (found, not_kept, failed)


def test_a_shard_without_samples_does_not_stand_in_the_way_of_a_keep_list(
    audit: Audit, folder: Path, tmp_path: Path
) -> None:
    with tarfile.open(folder / "empty.tar", "w"):
        pass
    keep = kept_list(audit, folder, tmp_path)
    config = {"path": str(folder), "keep_list": str(keep), "resolution": 16, "held_out_fraction": 0.0, "streams": 1}
    rows, _, failed = stream(DataConfig.model_validate(config), epochs=1)
    assert rows and not failed


def test_training_on_other_data_than_was_audited_is_noticed(
    audit: Audit, folder: Path, tmp_path: Path, make_shards: Callable[..., Path]
) -> None:
    keep = kept_list(audit, folder, tmp_path)
    make_shards(tmp_path / "elsewhere" / "data", 16, per_shard=8, first=600)
    config = {"path": str(tmp_path / "elsewhere" / "data"), "keep_list": str(keep), "resolution": 16, "streams": 1}
    with pytest.raises(ValueError, match="is not the one that was audited"):
        stream(DataConfig.model_validate({**config, "shuffle_buffer": 0}), epochs=1)
    (tmp_path / "elsewhere" / "data" / "00000.tar").rename(tmp_path / "elsewhere" / "data" / "new.tar")
    with pytest.raises(SettingsError, match=r"new.tar' is not in the audit"):
        stream(DataConfig.model_validate(config))
