"""Training by a keep-list: what is read, counted and refused."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from memsieve.filtering.audit.apply import apply_keep_list
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.loader import WindowLoader
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.keep_lists import kept_list

Audit = Callable[..., Outcome]


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
    audit: Audit, mixed: Path, tmp_path: Path, buffer: int
) -> None:
    """Same samples at the same positions, so the same draws: the run is the same, and what is not kept is counted."""
    keep = kept_list(audit, mixed, tmp_path)
    apply_keep_list(keep, tmp_path / "clean")
    plain = {"resolution": 16, "shuffle_buffer": buffer, "streams": 2, "held_out_fraction": 0.1}
    by_list = DataConfig.model_validate({"path": str(mixed), "keep_list": str(keep), **plain})
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
    audit: Audit, mixed: Path, tmp_path: Path, change: str
) -> None:
    """The shard ends before a row that is not kept, with kept ones behind it."""
    keep = kept_list(audit, mixed, tmp_path)
    table = pq.read_table(keep)
    rows = [row for row in table.to_pylist() if row["shard"].endswith("00000.tar")]
    away = next(row["index"] for row in rows if row["index"] and not row["keep"])
    assert any(row["keep"] for row in rows[away:])
    path = mixed / "00000.tar"
    spans = [row.span for row in read_shard(str(path), DataConfig(path="unused"))]
    end = bytes(1024) if change == "shorter" else b""
    path.write_bytes(path.read_bytes()[: spans[away][0]] + end)
    config = {"path": str(mixed), "keep_list": str(keep), "resolution": 16, "held_out_fraction": 0.0}
    for buffer in (0, 4):
        data = DataConfig.model_validate({**config, "streams": 1, "shuffle_buffer": buffer})
        found, not_kept, failed = stream(data)
        assert failed >= 2, "at least once a pass"
        assert stream(data, stop=1) == (found, not_kept, failed)


def test_a_shard_without_samples_does_not_stand_in_the_way_of_a_keep_list(
    audit: Audit, mixed: Path, tmp_path: Path
) -> None:
    with tarfile.open(mixed / "empty.tar", "w"):
        pass
    keep = kept_list(audit, mixed, tmp_path)
    config = {"path": str(mixed), "keep_list": str(keep), "resolution": 16, "held_out_fraction": 0.0, "streams": 1}
    rows, _, failed = stream(DataConfig.model_validate(config), epochs=1)
    assert rows and not failed


def test_training_on_other_data_than_was_audited_is_noticed(
    audit: Audit, mixed: Path, tmp_path: Path, make_shards: Callable[..., Path]
) -> None:
    keep = kept_list(audit, mixed, tmp_path)
    make_shards(tmp_path / "elsewhere" / "data", 16, per_shard=8, first=600)
    config = {"path": str(tmp_path / "elsewhere" / "data"), "keep_list": str(keep), "resolution": 16, "streams": 1}
    with pytest.raises(ValueError, match="is not the one that was audited"):
        stream(DataConfig.model_validate({**config, "shuffle_buffer": 0}), epochs=1)
    (tmp_path / "elsewhere" / "data" / "00000.tar").rename(tmp_path / "elsewhere" / "data" / "new.tar")
    with pytest.raises(SettingsError, match=r"new.tar' is not in the audit"):
        stream(DataConfig.model_validate(config))
