"""One self-contained HTML page of groups to look at: the largest, those nearest to the threshold, and what the filter
condemned, picture beside picture; what is split and joined on it is exported for ``audit groups --decisions``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.described import CONTENT
from memsieve.filtering.audit.group_decisions import FORMAT
from memsieve.filtering.audit.group_files import GroupsFile
from memsieve.filtering.audit.query import AuditQuery, Rows
from memsieve.filtering.files import write_whole
from memsieve.pages.pictures import Place, small_pictures
from memsieve.pages.rendering import render
from memsieve.pages.run_data import load_run

__all__ = ["build_groups_page"]

SIDE: Final = 160
MOST_GROUPS: Final = 48
MOST_MEMBERS: Final = 10
"""Of a group: its leader, and those that are least like it."""
MOST_PAIRS: Final = 40
"""On either side of the threshold."""
MOST_CONDEMNED: Final = 40
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture on the page; ``likeness`` to its group's leader, None for the leader itself and where nobody said."""

    content: str
    key: str
    caption: str
    likeness: float | None = None
    leads: bool = False


@dataclass(frozen=True, slots=True)
class ShownGroup:
    """Pictures of one group, of ``size``; of a condemned one the step at which it was, and how often it was read."""

    pictures: list[Shown]
    size: int
    step: int | None = None
    exposures: int | None = None


def build_groups_page(groups: Path, out: Path, trained: Path | None = None) -> Path:
    """Write the page of the table ``groups`` to ``out``; its path.

    Args:
        groups: what ``memsieve audit groups`` wrote; pictures come from the data of its audits, where it still is.
        out: the page.
        trained: the folder of a training run, whose condemned groups are shown too.

    Raises:
        ValueError: ``groups`` is no such table, or ``trained`` no run.
    """
    file = GroupsFile.read(groups, "TABLE")
    largest = _largest(file.table)
    joined, apart = _nearest(file.table, file.made.alike.threshold), _near(file)
    condemned = [] if trained is None else _condemned(trained)
    members = {row["group"]: _members(file.table, str(row["group"])) for row in condemned}
    wanted = [row["content"] for rows in largest.values() for row in rows]
    wanted += [content for a, b, _ in [*joined, *apart] for content in (a, b)]
    wanted += [one["content"] for rows in members.values() for one in rows]
    known, pictures = _look_up(file, dict.fromkeys(wanted))
    sizes = _sizes(file.table)
    context = {
        "title": groups.name,
        "written": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "format": FORMAT,
        "alike": file.made.alike,
        "decisions": file.made.decisions,
        "images": len(file.table),
        "total": len(sizes),
        "groups": [ShownGroup([_shown(row, known) for row in rows], sizes[name]) for name, rows in largest.items()],
        "joined": [_pair(known, *pair) for pair in joined],
        "apart": [_pair(known, *pair) for pair in apart],
        "trained": None if trained is None else trained.resolve().name,
        "condemned": [_of_run(row, members[row["group"]], known, sizes) for row in condemned],
        "pictures": pictures,
        "missing": [audit.path for audit in file.made.audits if not (Path(audit.path) / "audit.json").is_file()],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, render("groups.html", context))
    return out


def _sizes(table: pa.Table) -> dict[str, int]:
    counts = pc.value_counts(table["group"])
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))


def _largest(table: pa.Table) -> dict[str, list[Row]]:
    """The groups with most images, and those of their images that are shown."""
    counts = table.group_by("group", use_threads=False).aggregate([([], "count_all")])
    order = counts.sort_by([("count_all", "descending"), ("group", "ascending")]).slice(0, MOST_GROUPS)
    return {name: _members(table, name) for name in order["group"].to_pylist()}


def _members(table: pa.Table, group: str) -> list[Row]:
    """The leader of a group, and who is least like it; an image that is in no group is its own."""
    rows = table.filter(pc.equal(table["group"], group)).select(["content", "group", "leader", "likeness"])
    leader = rows.filter(pc.equal(rows["content"], group)).slice(0, 1)
    others = rows.filter(pc.not_equal(rows["content"], group)).sort_by([("likeness", "ascending")])
    found: list[Row] = pa.concat_tables([leader, others.slice(0, MOST_MEMBERS - len(leader))]).to_pylist()
    return found or [{"content": group, "group": group, "leader": group, "likeness": None}]


def _nearest(table: pa.Table, threshold: float) -> list[tuple[str, str, float]]:
    """(image, its leader, likeness) of those that joined by the least margin."""
    rows = table.filter(pc.and_(pc.not_equal(table["content"], table["leader"]), pc.is_valid(table["likeness"])))
    rows = rows.sort_by([("likeness", "ascending"), ("content", "ascending")]).slice(0, MOST_PAIRS)
    return [(row["leader"], row["content"], row["likeness"]) for row in rows.to_pylist()]


def _near(file: GroupsFile) -> list[tuple[str, str, float]]:
    """Pairs that all but joined, and were not joined since."""
    contents = pa.array([content for a, b, _ in file.made.near for content in (a, b)], pa.string())
    rows = file.table.filter(pc.is_in(file.table["content"], contents))
    group = dict(zip(rows["content"].to_pylist(), rows["group"].to_pylist(), strict=True))
    apart = [(b, a, likeness) for a, b, likeness in file.made.near if group.get(a, a) != group.get(b, b)]
    return apart[:MOST_PAIRS]


def _condemned(run: Path) -> list[Row]:
    """The groups that a run condemned, the strongest evidence first."""
    table = load_run(run).groups
    table = table.filter(pc.greater_equal(pc.fill_null(table["condemned_step"], -1), 0))
    table = table.sort_by([("evidence_max", "descending"), ("group", "ascending")]).slice(0, MOST_CONDEMNED)
    rows: list[Row] = table.select(["group", "condemned_step", "exposures"]).to_pylist()
    return rows


def _look_up(file: GroupsFile, wanted: Iterable[str]) -> tuple[dict[str, Row], dict[str, Markup]]:
    """What the audits that are still there say of images, and their pictures."""
    known: dict[str, Row] = {}
    pictures: dict[str, Markup] = {}
    contents = list(wanted)
    with AuditQuery() as query:
        query.take("wanted", pa.table({"content": pa.array(contents, pa.string())}))
        for number, audit in enumerate(file.made.audits):
            if not (Path(audit.path) / "audit.json").is_file():
                continue
            rows = query.add(f"audit{number}", Path(audit.path), partial=True)
            mine = {row["content"]: row for row in _first_rows(query, rows) if row["content"] not in known}
            known |= mine
            config = AuditConfig.model_validate(rows.about["config"]).data
            asked = [content for content in contents if content in mine]
            places = [Place(c, mine[c]["shard"], mine[c]["index"], mine[c]["part"] or 0) for c in asked]
            pictures |= small_pictures(places, config, (task["name"] for task in rows.about["tasks"]), SIDE)
    return known, pictures


def _first_rows(query: AuditQuery, rows: Rows) -> list[Row]:
    names = ("key", "shard", "index", "part", "caption")
    first = ", ".join(f"arg_min(a.{name}, a.row)" for name in names)
    found = query.rows(
        f"SELECT w.content, {first} FROM (SELECT {CONTENT} AS name, * FROM {rows.name} WHERE content IS NOT NULL) a "
        "JOIN wanted w ON w.content = a.name GROUP BY w.content"
    )
    return [dict(zip(("content", *names), row, strict=True)) for row in found]


def _shown(row: Row, known: dict[str, Row]) -> Shown:
    content, leads = str(row["content"]), row["content"] == row["group"]
    said = known.get(content, {})
    likeness = None if leads else row["likeness"]
    return Shown(content, said.get("key") or "", said.get("caption") or "", likeness, leads)


def _pair(known: dict[str, Row], leader: str, other: str, likeness: float) -> list[Shown]:
    return [_shown({"content": content, "group": leader, "likeness": likeness}, known) for content in (leader, other)]


def _of_run(row: Row, members: list[Row], known: dict[str, Row], sizes: dict[str, int]) -> ShownGroup:
    pictures = [_shown(one, known) for one in members]
    return ShownGroup(pictures, sizes.get(row["group"], 1), row["condemned_step"], row["exposures"])
