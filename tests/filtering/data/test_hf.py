"""Hugging Face datasets as a source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from memsieve.filtering.data.hf import HFSource
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.settings import SettingsError
from tests.filtering.data.samples import config, png


def short(row: RawRow) -> tuple[str, str, int, bytes, str | None]:
    return (row.key, row.shard, row.index, row.image, row.error if row.error else row.caption)


class TestHF:
    def dataset(self, **columns: list[Any]) -> datasets.Dataset:
        features = {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "__key__": datasets.Value("string"),
            "extra": datasets.Value("int64"),
        }
        return datasets.Dataset.from_dict(columns, features=datasets.Features({n: features[n] for n in columns}))

    def test_saved_to_disk_keeps_the_encoded_bytes(self, tmp_path: Path) -> None:
        images: list[Any] = [{"bytes": png(n), "path": None} for n in range(3)]
        self.dataset(image=images, text=["zero", "one", None], extra=[1, 2, 3]).save_to_disk(str(tmp_path / "d"))
        name = str(tmp_path / "d")
        source = HFSource(name, config(max_caption_bytes=16))
        assert [short(source.row(i)) for i in range(2)] == [
            ("00000000", name, 0, png(0), "zero"),
            ("00000001", name, 1, png(1), "one"),
        ]
        assert "no caption" in (source.row(2).error or "")
        assert (len(source), source.count_rows(), list(source.read(1))) == (3, 3, [source.row(1)])

    def test_splits_keys_and_several_datasets(self, tmp_path: Path) -> None:
        train = self.dataset(image=[{"bytes": png(1), "path": None}], text=["a"], __key__=["k1"])
        test = self.dataset(image=[{"bytes": png(2), "path": None}], text=["b"], __key__=["k2"])
        datasets.DatasetDict({"train": train, "test": test}).save_to_disk(str(tmp_path / "d"))
        name = str(tmp_path / "d")
        assert short(HFSource(name, config()).row(0)) == ("k1", name, 0, png(1), "a")
        assert short(HFSource(name, config(split="test")).row(0)) == ("k2", name, 0, png(2), "b")
        train.save_to_disk(str(tmp_path / "e"))
        both = HFSource([name, str(tmp_path / "e")], config())
        assert [(row.key, row.shard, row.index) for row in map(both.row, range(len(both)))] == [
            ("k1", name, 0),
            ("k1", str(tmp_path / "e"), 0),
        ]
        with pytest.raises(SettingsError, match="data.split = 'val' is not in .*its splits: train, test"):
            HFSource(name, config(split="val"))

    def test_columns_in_any_case_and_lists_of_captions(self, tmp_path: Path) -> None:
        data = datasets.Dataset.from_dict({"JPG": [png(1)] * 3, "Text": [["one", "two"], ["three"], []]})
        data.save_to_disk(str(tmp_path / "d"))
        for key in ("jpg", "JPG"):
            source = HFSource(str(tmp_path / "d"), config(image_key=key))
            assert (source.row(0).caption, source.row(0).captions) == ("one", ("one", "two"))
            assert (source.row(1).caption, source.row(1).captions) == ("three", ())
            assert "no caption" in (source.row(2).error or "")

    def test_local_files_and_binary_columns(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
        folder = tmp_path / "files"
        folder.mkdir()
        data = datasets.Dataset.from_dict({"jpg": [png(1), b""], "caption": ["one", "two"]})
        data.to_parquet(str(folder / "train.parquet"))
        source = HFSource(str(folder), config())
        assert short(source.row(0)) == ("00000000", str(folder), 0, png(1), "one")
        assert source.row(1).error == "the image is empty (0 bytes)"

    def test_images_by_path(self, tmp_path: Path) -> None:
        (tmp_path / "here.png").write_bytes(png(1))
        paths = [str(tmp_path / "here.png"), str(tmp_path / "gone.png"), "https://example.org/a.png"]
        images: list[Any] = [*({"bytes": None, "path": path} for path in paths), None]
        # save_to_disk opens the files of an Image column; a plain struct can name files that are gone.
        columns = {"image": images, "text": ["a"] * 4}
        struct = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
        features = datasets.Features({"image": struct, "text": datasets.Value("string")})
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "d"))
        source = HFSource(str(tmp_path / "d"), config(image_key="image"))
        assert source.row(0).image == png(1)
        assert [source.row(i).error for i in (1, 2, 3)] == [
            "the image cannot be read: No such file or directory",
            "the image lies at 'https://example.org/a.png' and not in the dataset; embed it first",
            "the row has no image",
        ]

    def test_wrong_columns_and_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dataset(image=[{"bytes": png(1), "path": None}], extra=[1]).save_to_disk(str(tmp_path / "d"))
        name = str(tmp_path / "d")
        with pytest.raises(SettingsError, match="data.caption_key = .* names no column of .*: image, extra"):
            HFSource(name, config())
        assert HFSource(name, config(allow_empty_caption=True)).row(0).caption == ""
        datasets.Dataset.from_dict({"x": [1], "text": ["a"]}).save_to_disk(str(tmp_path / "e"))
        with pytest.raises(SettingsError, match="data.image_key = .* names no column of .*: x, text"):
            HFSource(str(tmp_path / "e"), config())
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        (tmp_path / "nothing").mkdir()
        with pytest.raises(SettingsError, match=r"cannot be loaded as a dataset \(split 'train'\)"):
            HFSource(str(tmp_path / "nothing"), config())
