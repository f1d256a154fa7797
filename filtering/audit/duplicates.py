"""What samples of an audit share: an image, a look, a caption, a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from memsieve.filtering.audit.query import AuditQuery, Rows
from memsieve.filtering.audit.records import content_of

__all__ = ["Shared", "shared_by"]

MOST_GROUPS: Final = 50
MOST_KEYS: Final = 5
MOST_CAPTIONS: Final = 20
MOST_LOOKS: Final = 48
MOST_PICTURES: Final = 8
"""Of a caption that images share: a person sees at a glance whether they are one template."""
FIRST_ROWS: Final = 64
"""Of such a caption, that its pictures are taken from."""


@dataclass(frozen=True, slots=True)
class Shared:
    """Numbers by name, as ``summary.json`` holds them, the largest groups of samples with one image, and the captions
    and looks that most different images share."""

    counts: dict[str, int]
    groups: list[dict[str, Any]]
    captions: list[dict[str, Any]]
    looks: list[dict[str, Any]]


def shared_by(query: AuditQuery, rows: Rows) -> Shared:
    """Samples that share an image, a look, or a caption; and keys that stand for several samples."""
    name = rows.name
    query.run(
        f"CREATE TABLE {name}_copied AS SELECT content, count(*) AS copies, min(row) AS first FROM {name} "
        "WHERE content IS NOT NULL GROUP BY content HAVING count(*) > 1"
    )
    groups, samples = query.rows(f"SELECT count(*), coalesce(sum(copies - 1), 0) FROM {name}_copied")[0]
    counts = {
        "duplicate_groups": int(groups),
        "duplicate_samples": int(samples),
        "near_duplicate_groups": _of_several(query, name, "look"),
        "captions_of_several_images": _of_several(query, name, "caption_hash"),
        "repeated_keys": query.number(
            f"SELECT count(*) FROM (SELECT key FROM {name} WHERE key <> '' GROUP BY key HAVING count(*) > 1)"
        ),
    }
    captions = _of_several_images(query, name, "caption_hash", MOST_CAPTIONS)
    looks = _of_several_images(query, name, "look", MOST_LOOKS)
    return Shared(counts, _largest(query, name), captions, looks)


def _of_several(query: AuditQuery, name: str, column: str) -> int:
    """Values of a column that stand for several images."""
    return query.number(
        f"SELECT count(*) FROM (SELECT {column} FROM {name} WHERE content IS NOT NULL AND {column} IS NOT NULL "
        f"GROUP BY {column} HAVING min(content) <> max(content))"
    )


def _largest(query: AuditQuery, name: str) -> list[dict[str, Any]]:
    query.run(
        f"CREATE TABLE {name}_largest AS SELECT * FROM {name}_copied ORDER BY copies DESC, first LIMIT {MOST_GROUPS}"
    )
    found = query.rows(
        f"SELECT arg_min(a.sha256, a.row), l.copies, count(DISTINCT a.caption_hash), arg_min(a.caption, a.row), "
        f"arg_min(a.key, a.row, {MOST_KEYS}) FROM {name} a JOIN {name}_largest l ON l.content = a.content "
        "GROUP BY l.content, l.copies, l.first ORDER BY l.copies DESC, l.first"
    )
    names = ("sha256", "copies", "captions", "caption", "keys")
    return [dict(zip(names, row, strict=True)) for row in found]


def _of_several_images(query: AuditQuery, name: str, column: str, most: int) -> list[dict[str, Any]]:
    """Values of ``column`` that most different images share, with some of the images; an empty caption is none."""
    table = f"{name}_{column}_shared"
    known = "caption <> ''" if column == "caption_hash" else f"{column} IS NOT NULL"
    query.run(
        f"CREATE TABLE {table} AS SELECT {column}, count(DISTINCT content) AS images, "
        f"count(*) AS samples, min(row) AS first FROM {name} WHERE content IS NOT NULL AND {known} "
        f"GROUP BY {column} HAVING min(content) <> max(content) ORDER BY images DESC, first LIMIT {most}"
    )
    found = []
    for caption, images, samples, rows in query.rows(
        "SELECT arg_min(a.caption, a.row), c.images, c.samples, arg_min(struct_pack(sha := a.sha256, "
        f"shard := a.shard, index := a.index, part := a.part), a.row, {FIRST_ROWS}) "
        f"FROM {name} a JOIN {table} c ON c.{column} = a.{column} WHERE a.content IS NOT NULL "
        f"GROUP BY c.{column}, c.images, c.samples, c.first ORDER BY c.images DESC, c.first"
    ):
        places: dict[str, dict[str, Any]] = {}
        for row in rows:
            places.setdefault(content_of(row["sha"]), row)
        pictures = [
            {"content": content, "shard": row["shard"], "index": row["index"], "part": row["part"] or 0}
            for content, row in places.items()
        ]
        found.append({"caption": caption, "images": images, "samples": samples, "pictures": pictures[:MOST_PICTURES]})
    return found
