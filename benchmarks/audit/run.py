"""Measure an audit: its throughput beside its own forwards, and what it says of a model that copies.

    scripts/bench audit
    scripts/bench audit --only throughput --only shards        the timings alone, on a quiet machine

Numbers go to docs/benchmarks/audit.json, part by part; run again, it goes on with the parts that are missing. The page
docs/benchmarks-audit.md is written from that file. About 40 minutes on an idle CPU core, 7 of them for the timings.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.audit.page import write_page
from benchmarks.audit.planted import Planted
from benchmarks.audit.throughput import cost_of_shards, throughput
from benchmarks.common import MODEL, NUMBERS, PAGES, RUNS, cpu_name, write_numbers


def main(
    work: Annotated[Path, typer.Option(help="Data, runs and audits; kept.")] = RUNS / "bench-audit",
    out: Annotated[Path, typer.Option(help="The JSON.")] = NUMBERS / "audit.json",
    page: Annotated[Path, typer.Option(help="The page made of it.")] = PAGES / "benchmarks-audit.md",
    steps: Annotated[int, typer.Option(help="Of both fine-tunes.")] = 1200,
    only: Annotated[list[str] | None, typer.Option(help="A part. Repeatable; all by default.")] = None,
) -> None:
    """Measure what is missing in --out, and write the page."""
    torch.set_num_threads(1)
    study = Planted(work, steps)
    parts: dict[str, Callable[[], Any]] = {
        "planted": study.about,
        "ranking": study.ranking,
        "removal": study.removal,
        "rules": study.rules,
        "keep_list": study.keep_list,
        "throughput": lambda: throughput(work, MODEL),
        "shards": lambda: cost_of_shards(work, MODEL),
    }
    unknown = set(only or []) - parts.keys()
    if unknown:
        raise typer.BadParameter(f"'{unknown.pop()}' is no part; there are {', '.join(parts)}", param_hint="--only")
    found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    for name, measure in parts.items():
        if name in found or (only and name not in only):
            continue
        typer.echo(f"measuring: {name}", err=True)
        found[name] = measure()
        if name in ("throughput", "shards"):
            found["machine"] = machine()
        write_numbers(out, found)
    if all(name in found for name in parts):
        write_page(page, found)
        typer.echo(f"numbers in {out}, page in {page}")
    else:
        typer.echo(f"numbers in {out}; missing for the page: {', '.join(parts.keys() - found.keys())}")


def machine() -> dict[str, Any]:
    """What the timings were taken on."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "cores_allowed": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


if __name__ == "__main__":
    typer.run(main)
