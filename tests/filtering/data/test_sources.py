"""Rows from WebDataset, Hugging Face and folders alike."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from memsieve.filtering.data.folder.source import FolderSource
from memsieve.filtering.data.loader import WindowLoader
from memsieve.filtering.data.sources import ShardSource, open_source
from memsieve.filtering.settings import SettingsError
from tests.filtering.data.samples import config, png


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_map_style_sources_feed_the_loader(tmp_path: Path, workers: int) -> None:
    files: dict[str, bytes | str] = {}
    for number in range(10):
        files |= {f"{number}.png": png(number), f"{number}.txt": "x"}
    folder = str(write(tmp_path / "images", files))
    data = config(path=folder, format="folder", workers=workers)
    loader = WindowLoader(data, 4, max_epochs=1)
    assert loader.n_streams == 4
    rows = [row for window in loader for row in window.rows if row]
    assert sorted(row.key for row in rows) == [str(n) for n in range(10)]
    assert [row.key for row in rows] != [str(n) for n in range(10)]


def test_hf_rows_reach_the_loader_through_workers(tmp_path: Path) -> None:
    columns = {"image": [{"bytes": png(n), "path": None} for n in range(10)], "text": ["x"] * 10}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "d"))
    data = config(path=str(tmp_path / "d"), format="hf", workers=2)
    rows = [row for window in WindowLoader(data, 4, max_epochs=1) for row in window.rows if row]
    assert sorted(row.index for row in rows) == list(range(10))


def test_open_source_follows_the_format(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": b"1", "a.txt": "x", "0.tar": b"x"})
    assert isinstance(open_source(str(tmp_path), config(format="folder")), FolderSource)
    assert isinstance(open_source(str(tmp_path), config()), ShardSource)
    with pytest.raises(SettingsError, match="data.held_out_path"):
        open_source(str(tmp_path / "no"), config(), "data.held_out_path")
