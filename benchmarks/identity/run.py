"""Which files show one picture: descriptors on photographs and ten edits, and what finding takes at scale.

    scripts/bench identity                      photographs and a million embeddings, then the page
    scripts/bench identity --part photographs   or neighbours, tables; page: the page of the numbers that are there

What is done is kept in --work, and the same command goes on. Photographs come from Debian's packages (350 MB are
fetched by apt-get and not shipped; their copyright files are kept beside them), or from a --folder of yours. ``tables``
makes an audit of a hundred million rows (some 20 GB on disk, and hours) unless --rows says fewer. Numbers go to
docs/benchmarks/identity.json; docs/benchmarks-identity.md is written from that file.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import track

from benchmarks.common import NUMBERS, PAGES, RUNS, machine, write_numbers
from benchmarks.identity.at_scale import in_own_process
from benchmarks.identity.finders import FINDERS, judged, measured
from benchmarks.identity.page import write_page
from benchmarks.identity.photographs import Photograph, prepared
from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.group_check import CheckedDescriptor, check_descriptors
from memsieve.filtering.audit.query import AuditQuery
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.settings import SettingsError

PARTS: Final = ("photographs", "neighbours", "tables", "page")
FALSE_JOINS: Final = 0.01
SEED: Final = 1
"""Of the true edits; the check draws its own by another one."""
console = Console(stderr=True, emoji=False)


def main(
    part: Annotated[str, typer.Option(help="photographs, neighbours, tables, page, or all but tables.")] = "all",
    work: Annotated[Path, typer.Option(help="Photographs, descriptors, audits.")] = RUNS / "identity",
    folder: Annotated[Path | None, typer.Option(help="Photographs of one's own in place of Debian's.")] = None,
    most: Annotated[int, typer.Option(help="Photographs at most; 0 takes all.")] = 0,
    rows: Annotated[int, typer.Option(help="Of neighbours or tables; 0: a million, and a hundred million.")] = 0,
    out: Annotated[Path, typer.Option(help="The JSON.")] = NUMBERS / "identity.json",
    page: Annotated[Path, typer.Option(help="The page.")] = PAGES / "benchmarks-identity.md",
) -> None:
    """Measure what is missing, and write the page."""
    if part not in ("all", *PARTS):
        raise typer.BadParameter(f"'{part}' is not one of all, {', '.join(PARTS)}", param_hint="--part")
    found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    if part in ("all", "photographs"):
        photographs = prepared(work, folder)
        found["photographs"] = on_photographs(photographs[: most or None], work)
    if part in ("all", "neighbours"):
        count = rows or 1_000_000
        found["neighbours"] = in_own_process(work / f"neighbours-{count}.json", "neighbours", count)
    if part == "tables":
        count = rows or 100_000_000
        found["tables"] = in_own_process(work / f"tables-{count}.json", "tables", work / f"audit-{count}", count)
    if part != "page":
        write_numbers(out, found)
    write_page(page, found)
    console.print(f"numbers in {out}, page in {page}")


def on_photographs(photographs: list[Photograph], work: Path) -> dict[str, Any]:
    """Every finder that is installed on every edit, and beside it what the check says of itself."""
    finders: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for name in track(FINDERS, "finders", console=console):
        try:
            kept = work / "described" / f"{name}-{len(photographs)}.npz"
            finders[name] = judged(name, measured(name, photographs, kept, SEED), FALSE_JOINS)
        except SettingsError as error:
            missing[name] = str(error)
    checked = _checked(photographs, work, [name for name in finders if name != "phash"])
    for name, one in checked.items():
        finders[name]["auto"]["check"] = {
            "threshold": one.threshold if one.kind == "floats" else -one.threshold,
            "recall": one.recall,
            "mean_recall": one.mean_recall,
            "joined": one.joined,
        }
    packages = Counter(one.package for one in photographs)
    return {
        "photographs": len(photographs),
        "from": dict(sorted(packages.items())),
        "finders": finders,
        "missing": missing,
        **machine(),
    }


def _checked(photographs: list[Photograph], work: Path, names: list[str]) -> dict[str, CheckedDescriptor]:
    """What ``audit groups --threshold auto`` would say, on an audit of the photographs."""
    if not names:
        return {}
    chosen = work / f"folder-{len(photographs)}"
    chosen.mkdir(parents=True, exist_ok=True)
    for one in photographs:
        for file in (one.file, one.file.with_suffix(".txt")):
            link = chosen / file.name
            if not link.exists():
                link.hardlink_to(file)
    audit = work / f"audit-of-photographs-{len(photographs)}"
    data = {"path": str(chosen), "format": "folder"}
    score_shards(AuditConfig.model_validate({"data": data, "model": None, "describe": names}), audit)
    with AuditQuery() as query:
        checked = check_descriptors(query, query.add("audit", audit), len(photographs), FALSE_JOINS)
    return {one.by: one for one in checked}


if __name__ == "__main__":
    typer.run(main)
