"""The file that ``data.groups`` takes: who belongs together, and how that was found out."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.settings import SettingsError

__all__ = ["GROUPS_SCHEMA", "METADATA", "Alike", "GroupsFile", "Made", "Sources"]

METADATA: Final = b"memsieve.groups"
"""Where the file says how it was made, as JSON."""
GROUPS_SCHEMA: Final = pa.schema(
    [
        ("content", pa.string()),
        ("group", pa.string()),
        ("leader", pa.string()),
        ("likeness", pa.float32()),
        ("descriptor", pa.string()),
        ("threshold", pa.float64()),
        ("key", pa.string()),
        ("shard", pa.string()),
        ("index", pa.int64()),
        ("part", pa.int64()),
    ]
)
"""One row for each image that is not alone: its content id, the content id that its group is called by, the image that
it was found alike to and how alike (null where a person, or a caption, joined them), and where its first row is."""
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Alike:
    """When two images are one: by which descriptor of the audit, and from which likeness on.

    Attributes:
        by: ``phash``, which is in every audit; a column that ``audit score --describe`` wrote, without its prefix; or
            ``caption``, for images that are captioned by the same text.
        threshold: least cosine of embeddings; most bits that may differ in hashes; means nothing for captions.
        mirrored: whether a mirrored image is the same to ``phash``; other descriptors have their own mind about it.
    """

    by: str = "phash"
    threshold: float = 4
    mirrored: bool = True


@dataclass(frozen=True, slots=True)
class Sources:
    """An audit that images came from: its folder, and short digests of its tasks as they were then."""

    path: str
    tasks: list[str]


@dataclass(frozen=True, slots=True)
class Made:
    """How a file of groups was made.

    Attributes:
        alike: when two images are one.
        identity: of the descriptor: a version, or the sha256 of its model; empty where every audit has it.
        audits: that its images came from, in order.
        near: images that all but joined: content ids of both, and how alike; the most alike first.
        decisions: what a person has split and joined, counted.
    """

    alike: Alike
    identity: str = ""
    audits: list[Sources] = field(default_factory=list)
    near: list[tuple[str, str, float]] = field(default_factory=list)
    decisions: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """As the file holds it."""
        return json.dumps({"format": FORMAT, **asdict(self)}).encode()

    @staticmethod
    def from_json(data: bytes) -> Made:
        """What ``to_json`` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            values = json.loads(data)
            if values.pop("format") != FORMAT:
                raise ValueError("it is of another version")
            values["alike"] = Alike(**values["alike"])
            values["audits"] = [Sources(**one) for one in values["audits"]]
            values["near"] = [(str(a), str(b), float(likeness)) for a, b, likeness in values["near"]]
            return Made(**values)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"it holds something else: {error}") from None


@dataclass(frozen=True, slots=True)
class GroupsFile:
    """The rows by ``GROUPS_SCHEMA``, and how they were made."""

    table: pa.Table
    made: Made

    @staticmethod
    def read(path: Path, option: str) -> GroupsFile:
        """The file at ``path``, which ``option`` names.

        Raises:
            SettingsError: there is none, or ``memsieve audit groups`` has not made it.
        """
        if not path.is_file():
            raise SettingsError(f"{option}: there is no file '{path}'")
        try:
            table = pq.read_table(path)
            made = Made.from_json((table.schema.metadata or {})[METADATA])
            columns: Any = table.select(GROUPS_SCHEMA.names).cast(GROUPS_SCHEMA)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise SettingsError(f"{option}: '{path}' was not made by this version's audit groups: {error}") from None
        return GroupsFile(columns, made)

    def with_decisions(self, table: pa.Table, counts: dict[str, int]) -> GroupsFile:
        """The same file after a person has split and joined."""
        summed = {name: self.made.decisions.get(name, 0) + count for name, count in counts.items()}
        return GroupsFile(table, replace(self.made, decisions=summed))

    def write(self, path: Path) -> None:
        """Write it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        pq.write_table(self.table.replace_schema_metadata({METADATA: self.made.to_json()}), temporary)
        os.replace(temporary, path)
