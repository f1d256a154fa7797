"""What a person has decided about groups: images that stand alone again, and images that are one pair."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from memsieve.filtering.audit.group_files import GROUPS_SCHEMA
from memsieve.filtering.settings import SettingsError

__all__ = ["FORMAT", "Decisions", "decided", "read_decisions"]

FORMAT: Final = "memsieve group decisions 1"
MOST_BYTES: Final = 16_000_000
"""Of a file: 100,000 joins take 8 MB."""
MOST: Final = 100_000
_CONTENT: Final = re.compile(r"[0-9a-f]{32}")
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Decisions:
    """``split``: content ids of images that leave their groups; ``join``: pairs of images whose groups become one,
    under the name of the first one's. What is split is split first."""

    split: tuple[str, ...] = ()
    join: tuple[tuple[str, str], ...] = ()

    @property
    def contents(self) -> list[str]:
        """All images that are named, once each."""
        return list(dict.fromkeys([*self.split, *(content for pair in self.join for content in pair)]))


def read_decisions(path: Path) -> Decisions:
    """The file that the page of groups exports: JSON with ``format``, ``split`` (content ids) and ``join`` (pairs).

    Raises:
        SettingsError: it is not that, or too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
        return _checked(json.loads(data))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"--decisions '{path}' holds no decisions about groups: {error}") from None


def _checked(values: Any) -> Decisions:
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ValueError(f"its format is not '{FORMAT}'")
    if unknown := sorted(values.keys() - {"format", "split", "join"}):
        raise ValueError(f"it says '{unknown[0][:40]}', which is not known")
    split, join = values.get("split", []), values.get("join", [])
    if not isinstance(split, list) or not isinstance(join, list) or len(split) + len(join) > MOST:
        raise ValueError(f"split and join must be lists, of {MOST:,} entries at most together")
    pairs = []
    for pair in join:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
            raise ValueError(f"join has {_shown(pair)}, which is no pair of images")
        pairs.append((_content(pair[0]), _content(pair[1])))
    return Decisions(tuple(dict.fromkeys(_content(one) for one in split)), tuple(pairs))


def _content(value: object) -> str:
    if not isinstance(value, str) or not _CONTENT.fullmatch(value):
        raise ValueError(f"{_shown(value)} is no content id of 32 hexadecimal digits")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def decided(table: pa.Table, decisions: Decisions, alone: dict[str, Row]) -> pa.Table:
    """``table`` (``GROUPS_SCHEMA``) as a person wants it; images that are left alone are in it no more.

    Args:
        table: groups as they were found.
        decisions: whose images are in ``table`` or in ``alone``.
        alone: content id -> row of each image that is named and not in ``table``, its own group and leader.
    """
    groups = set(
        table["group"].filter(pc.is_in(table["content"], pa.array(decisions.contents, pa.string()))).to_pylist()
    )
    touched = pc.is_in(table["group"], pa.array(list(groups), pa.string()))
    rows = {row["content"]: row for row in table.filter(touched).to_pylist()}
    rows |= {content: dict(row) for content, row in alone.items()}
    members: dict[str, list[str]] = defaultdict(list)
    for content, row in rows.items():
        members[row["group"]].append(content)
    for content in decisions.split:
        _split(content, rows, members)
    for first, second in decisions.join:
        _join(rows[first]["group"], rows[second]["group"], rows, members)
    kept = [row for row in rows.values() if len(members[row["group"]]) > 1]
    changed = pa.Table.from_pylist(kept, schema=GROUPS_SCHEMA)
    return pa.concat_tables([table.filter(pc.invert(touched)), changed])


def _split(content: str, rows: dict[str, Row], members: dict[str, list[str]]) -> None:
    """An image leaves its group, which goes on about its next member where it was called by this image."""
    name = rows[content]["group"]
    rest = [member for member in members.pop(name) if member != content]
    rows[content] |= {"group": content, "leader": content, "likeness": None}
    if name == content and rest:
        name = rest[0]
        for member in rest:
            rows[member] |= {"group": name, "leader": name, "likeness": None}
    members[name] = rest
    members[content] = [content]


def _join(name: str, other: str, rows: dict[str, Row], members: dict[str, list[str]]) -> None:
    if name == other:
        return
    for member in members.pop(other):
        rows[member]["group"] = name
        members[name].append(member)
