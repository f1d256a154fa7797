"""Near-duplicates as groups, for ``data.groups``: images that look alike to a descriptor of the audit are one pair.

The filter's evidence accumulates per image content, so an image whose copies differ in bytes (compressed anew, cropped
a little, recoloured, mirrored) is many pairs that come round rarely, and none is condemned.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from memsieve.filtering.audit.described import CONTENT, kind_of
from memsieve.filtering.audit.group_decisions import decided, read_decisions
from memsieve.filtering.audit.group_files import GROUPS_SCHEMA, Alike, GroupsFile, Made, Sources
from memsieve.filtering.audit.joining import Found, Images, find_groups
from memsieve.filtering.audit.query import AuditQuery, Rows
from memsieve.filtering.settings import SettingsError

__all__ = ["Alike", "Grouping", "group_audit"]

_HASHES: Final = Alike()


@dataclass(frozen=True, slots=True)
class Grouping:
    """What was found: distinct images that were looked at, and those of them that joined another one; and of the whole
    file the images that are not alone, their groups, and the largest."""

    images: int
    joining: int
    joined: int
    groups: int
    largest: int


def group_audit(
    run: Path,
    out: Path,
    alike: Alike = _HASHES,
    *,
    onto: GroupsFile | None = None,
    decisions: Path | None = None,
    partial: bool = False,
) -> Grouping:
    """Write ``out``, a table for ``data.groups`` (``GROUPS_SCHEMA``) of the images that have near-duplicates: those of
    the audit in ``run``, and, with ``onto``, those of the audits that it was made of.

    Images that stand alone are left out: they are groups by themselves. Images come in the audit's order. With ``onto``
    its images stay in their groups, those that led or were alone lead, and only images that it does not know join.

    Args:
        alike: when two images are one; of ``onto`` where that is given.
        onto: a table to go on with.
        decisions: a file of what a person has split and joined (see ``read_decisions``).
        partial: go on although shards are missing.

    Raises:
        SettingsError: ``out`` is no Parquet name, the threshold is out of range, the audit has no such descriptor or
            another one, is not complete, or does not have an image of ``decisions``.
    """
    if out.suffix != ".parquet":
        raise SettingsError(f"--out '{out}' must end in .parquet, which data.groups reads")
    wanted = None if decisions is None else read_decisions(decisions)
    with AuditQuery() as query:
        images, made = _open(query, run, onto, alike, partial)
        found = find_groups(query, images, made.alike)
        file = GroupsFile(_table(query, images, onto, found, made.alike), replace(made, near=_near(found, made)))
        if wanted is not None:
            alone = _alone(query, images, file.table, wanted.contents, made.alike)
            table = decided(file.table, wanted, alone)
            file = file.with_decisions(table, {"split": len(wanted.split), "join": len(wanted.join)})
        file.write(out)
    sizes = pc.value_counts(file.table["group"])
    largest = max(sizes.field("counts").to_pylist(), default=0)
    return Grouping(found.images, len(found.contents), len(file.table), len(sizes), largest)


def _open(
    query: AuditQuery, run: Path, onto: GroupsFile | None, alike: Alike, partial: bool
) -> tuple[list[Images], Made]:
    """The audits, with what is known of each and what is new."""
    before = GROUPS_SCHEMA.empty_table() if onto is None else onto.table
    query.take("before", before.select(["content", "leader"]))
    query.run("CREATE TABLE known_contents (content UUID)")
    made = Made(alike) if onto is None else onto.made
    own = Path(run).resolve()
    images, audits = [], []
    for number, audit in enumerate(made.audits):
        if Path(audit.path) != own:
            rows = _of_before(query, f"audit{number}", audit)
            images.append(Images(rows, known="true", new="false"))
            audits.append(audit)
    rows = query.add("audit", run, partial=partial)
    digests = _digests(rows)
    seen = {digest for audit in made.audits if Path(audit.path) == own for digest in audit.tasks}
    firsts = [part.first for part, digest in zip(rows.parts, digests, strict=True) if digest not in seen and part.rows]
    query.take("audit_new", pa.table({"first": pa.array(firsts, pa.int64())}))
    new = "task_first IN (SELECT first FROM audit_new)"
    images.append(Images(rows, known=f"NOT ({new})" if seen else "false", new=new))
    for one in images:
        query.run(
            f"INSERT INTO known_contents SELECT DISTINCT content FROM {one.rows.name} WHERE content IS NOT NULL AND "
            f"({one.known})"
        )
        identity = _identity(one.rows, made.alike.by)
        if made.audits and identity != made.identity:
            raise SettingsError(
                f"--onto: its groups are by {made.alike.by} ({made.identity[:16]}), and the audit's descriptor is "
                f"another one ({identity[:16] or 'none'}): describe it by the same file"
            )
        made = replace(made, identity=identity)
    return images, replace(made, audits=[*audits, Sources(str(own), digests)])


def _of_before(query: AuditQuery, name: str, audit: Sources) -> Rows:
    if not (Path(audit.path) / "audit.json").is_file():
        raise SettingsError(
            f"--onto: its images are of the audit in '{audit.path}', which is not there: put it back, for what its "
            "images look like is kept there; or group all audits anew"
        )
    return query.add(name, Path(audit.path), partial=True)


def _digests(rows: Rows) -> list[str]:
    """Of each task of an audit and of the data that it was: by them a grown audit's new shards are told."""
    markers = {state.task.slug: state.marker for state in rows.status.states}
    found = []
    for part in rows.parts:
        marker = markers.get(part.file.stem)
        said = json.dumps([part.file.stem, None if marker is None else marker.identity], sort_keys=True)
        found.append(hashlib.blake2b(said.encode(), digest_size=6).hexdigest())
    return found


def _identity(rows: Rows, by: str) -> str:
    if by in ("phash", "caption"):
        return ""
    return str((rows.about["deciding"].get("described") or {}).get(f"descriptor_{by}", ""))


def _near(found: Found, made: Made) -> list[tuple[str, str, float]]:
    return sorted([*made.near, *found.near], key=lambda pair: -pair[2])[:200]


def _table(query: AuditQuery, images: list[Images], onto: GroupsFile | None, found: Found, alike: Alike) -> pa.Table:
    """The rows of ``onto``, and those of the new groups and their leaders."""
    before = GROUPS_SCHEMA.empty_table() if onto is None else onto.table
    query.take("groups_before", before.select(["content", "group"]))
    query.take(
        "found",
        pa.table({"content": found.contents, "leader": found.leaders, "likeness": found.likeness}).append_column(
            "number", pa.array(range(len(found.contents)), pa.int64())
        ),
    )
    own = "NULL" if alike.by == "caption" else "1.0" if _is_cosine(images, alike) else "0.0"
    # Leaders that have members now, and were alone until now, have rows of their own.
    query.run(
        'CREATE TABLE members AS SELECT f.content, coalesce(g."group", f.leader) AS grp, f.leader, f.likeness, '
        "f.number FROM found f LEFT JOIN groups_before g ON g.content = f.leader"
    )
    query.run(
        f"INSERT INTO members SELECT leader, leader, leader, {own}, min(number) - 0.5 FROM members WHERE leader NOT IN "
        "(SELECT content FROM groups_before) GROUP BY leader"
    )
    rows = _placed(query, images, "SELECT content, grp, leader, likeness, number FROM members", alike)
    return pa.concat_tables([before.replace_schema_metadata(None), rows])


def _is_cosine(images: list[Images], alike: Alike) -> bool:
    """Whether an image is like itself by 1, a cosine, or by 0 bits."""
    return alike.by != "phash" and kind_of(images[-1].rows, alike.by) == "floats"


def _placed(query: AuditQuery, images: list[Images], members: str, alike: Alike) -> pa.Table:
    """``members`` (content, grp, leader, likeness, number) by ``GROUPS_SCHEMA``, with the place of each's first row."""
    every = " UNION ALL ".join(
        f"SELECT {CONTENT} AS content, key, shard, index, part, {number} AS audit, row FROM {one.rows.name} "
        "WHERE content IS NOT NULL"
        for number, one in enumerate(images)
    )
    first = ", ".join(f"arg_min(e.{name}, (e.audit, e.row)) AS {name}" for name in ("key", "shard", "index", "part"))
    batches = query.batches(
        f'SELECT m.content, m.grp AS "group", m.leader, m.likeness, {first} FROM ({members}) m '
        f"JOIN ({every}) e ON e.content = m.content GROUP BY m.content, m.grp, m.leader, m.likeness, m.number "
        "ORDER BY m.number"
    )
    parts = [_completed(batch, alike) for batch in batches]
    return pa.concat_tables([GROUPS_SCHEMA.empty_table(), *parts])


def _completed(batch: pa.RecordBatch, alike: Alike) -> pa.Table:
    columns: dict[str, Any] = {name: batch.column(name) for name in batch.schema.names}
    columns["descriptor"] = pa.array([alike.by] * len(batch), pa.string())
    said = None if alike.by == "caption" else alike.threshold
    columns["threshold"] = pa.array([said] * len(batch), pa.float64())
    return pa.table([columns[one.name].cast(one.type) for one in GROUPS_SCHEMA], schema=GROUPS_SCHEMA)


def _alone(
    query: AuditQuery, images: list[Images], table: pa.Table, contents: list[str], alike: Alike
) -> dict[str, dict[str, Any]]:
    """A row for each of ``contents`` that is in no group.

    Raises:
        SettingsError: one of them is in no audit.
    """
    there = set(table["content"].filter(pc.is_in(table["content"], pa.array(contents, pa.string()))).to_pylist())
    wanted = [content for content in contents if content not in there]
    query.take("wanted", pa.table({"content": pa.array(wanted, pa.string())}))
    members = "SELECT content, content AS grp, content AS leader, NULL AS likeness, 0 AS number FROM wanted"
    found = {row["content"]: row for row in _placed(query, images, members, alike).to_pylist()}
    if missing := [content for content in wanted if content not in found]:
        raise SettingsError(
            f"--decisions: {len(missing)} of its images are in no audit that is grouped, the first '{missing[0]}'"
        )
    return found
