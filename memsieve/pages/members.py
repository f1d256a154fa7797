"""The images that a run's groups are made of: from its table of groups (``data.groups``) and its shards on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from markupsafe import Markup
from pydantic import ValidationError

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.shard_paths import expand_paths
from memsieve.filtering.settings import SettingsError
from memsieve.pages.pictures import Place, small_pictures

__all__ = ["Members", "members_of"]

SIDE: Final = 96
MOST: Final = 6
"""Pictures of a group."""
PLACES: Final = ("shard", "index", "part")


@dataclass(frozen=True, slots=True)
class Members:
    """How many images are a group, and pictures of some of them."""

    images: int
    pictures: list[Markup]


def members_of(config: str | None, groups: Sequence[str], notes: list[str]) -> dict[str, Members]:
    """Those of ``groups`` that the table of groups has; what could not be read becomes a note.

    Pictures need to know where they are, which tables of ``memsieve audit groups`` say. Only shards that the run itself
    was trained on, and that lie on disk, are looked into; no command is run for them.

    Args:
        config: the run's resolved config.yaml.
        groups: by their names, the most important first.
        notes: what the page says was not there.
    """
    data = _data(config)
    if data is None or data.groups is None:
        return {}
    try:
        table = _rows(Path(data.groups), groups)
    except (OSError, pa.ArrowException, KeyError) as error:
        notes.append(f"the images of groups are not shown: '{data.groups}': {str(error).splitlines()[0]}")
        return {}
    sizes = pc.value_counts(table["group"])
    counts = dict(zip(sizes.field("values").to_pylist(), sizes.field("counts").to_pylist(), strict=True))
    chosen = {name: table.filter(pc.equal(table["group"], name)).slice(0, MOST).to_pylist() for name in counts}
    pictures = _pictures(data, [row for name in groups for row in chosen.get(name, [])], notes)
    return {
        name: Members(counts[name], [pictures[row["content"]] for row in rows if row["content"] in pictures])
        for name, rows in chosen.items()
    }


def _data(config: str | None) -> DataConfig | None:
    try:
        values: Any = yaml.safe_load(config or "")
        return DataConfig.model_validate(values["data"]).model_copy(update={"allow_pipe": False})
    except (yaml.YAMLError, TypeError, KeyError, ValidationError, RecursionError):
        return None


def _rows(file: Path, groups: Sequence[str]) -> pa.Table:
    """The rows of ``groups``; without places where the table has none."""
    names = pq.read_schema(file).names
    columns = ["content", "group", *(name for name in PLACES if name in names)]
    wanted = pc.field("group").isin(pa.array(list(groups), pa.string()))
    return pq.read_table(file, columns=columns, filters=wanted)


def _pictures(data: DataConfig, rows: list[dict[str, Any]], notes: list[str]) -> dict[str, Markup]:
    places = [
        Place(str(row["content"]), str(row["shard"]), int(row["index"]), int(row.get("part") or 0))
        for row in rows
        if row.get("shard") is not None and row.get("index") is not None
    ]
    if not places:
        return {}
    try:
        shards = expand_paths(data.path) if data.format == "webdataset" else []
        return small_pictures(places, data, [shard for shard in shards if "://" not in shard], SIDE)
    except (SettingsError, OSError) as error:
        notes.append(f"the images of groups are not shown: {str(error).splitlines()[0]}")
        return {}
