"""What a command line names as data is told apart by a look: shards, one tar, pictures, a dataset on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from memsieve.filtering.data.named import named_data
from memsieve.filtering.settings import SettingsError


def test_a_look_tells_the_kind_and_nothing_is_held_out(tmp_path: Path) -> None:
    marks = {
        "shards": "0.tar",
        "pressed": "0.tar.gz",
        "hf": "state.json",
        "splits": "dataset_dict.json",
        "all": "a.png",
    }
    for name, file in marks.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(b"x")
    kinds = {name: named_data(str(tmp_path / name)).format for name in marks}
    assert kinds == {"shards": "webdataset", "pressed": "webdataset", "hf": "hf", "splits": "hf", "all": "folder"}
    for path in (str(tmp_path / "shards" / "0.tar"), str(tmp_path / "shards" / "{0..3}.tar")):
        data = named_data([path], resolution=64)
        assert (data.format, data.path, data.resolution, data.held_out_fraction) == ("webdataset", path, 64, 0.0)
    assert named_data("owner/name", "hf").format == "hf"


def test_what_is_not_there_or_of_two_kinds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").write_bytes(b"x")
    with pytest.raises(SettingsError, match=r"--data: there is nothing at 'none'; name shards, one \.tar"):
        named_data("none")
    with pytest.raises(SettingsError, match=r"--data: .* are of several kinds \(folder, webdataset\)"):
        named_data([str(tmp_path), str(tmp_path / "shards")])
    with pytest.raises(SettingsError, match="--format = 'zip': must be one of webdataset, hf, folder"):
        named_data(str(tmp_path), "zip")
