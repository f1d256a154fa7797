"""Tables of groups: images that count as one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import group_of
from memsieve.filtering.data.rows import RawRow, content_id
from memsieve.filtering.settings import SettingsError


def config(**values: Any) -> DataConfig:
    return DataConfig(**{"path": "unused", "resolution": 8, **values})


def table_of(path: Path, rows: dict[str, list[Any]]) -> str:
    pq.write_table(pa.table(rows), path)
    return str(path)


def test_a_table_joins_images_into_one_group(tmp_path: Path) -> None:
    one, other, alone = (RawRow("k", "s", 0, data) for data in (b"one", b"the other", b"alone"))
    path = table_of(
        tmp_path / "groups.parquet",
        {"content": [content_id(b"one"), content_id(b"the other")], "group": ["cluster 1", "cluster 1"]},
    )
    grouped = config(groups=path)
    assert group_of(one, grouped) == group_of(other, grouped) == "cluster 1"
    assert group_of(alone, grouped) == content_id(b"alone")
    assert group_of(one, config()) == content_id(b"one")


def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    raw = RawRow("k", "s", 0, b"one")
    (tmp_path / "text").write_text("no table")
    wrong = {
        "does not exist": str(tmp_path / "nothing"),
        "holds no columns": str(tmp_path / "text"),
        "holds no columns content and group": table_of(tmp_path / "a", {"content": ["x"]}),
        "into two groups": table_of(tmp_path / "b", {"content": ["x", "x"], "group": ["1", "2"]}),
        "not two texts": table_of(tmp_path / "c", {"content": ["x"], "group": [None]}),
    }
    for message, path in wrong.items():
        with pytest.raises(SettingsError, match=message):
            group_of(raw, config(groups=path))
