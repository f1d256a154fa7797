"""Measure what the filter costs in time and memory, and write the numbers, a picture and a page.

    scripts/bench speed
    scripts/bench speed --only planted_0 --only planted_79      (without and with the demonstration's repeats)

Numbers go to docs/benchmarks/speed.json, part by part; run again, it goes on with the parts that are missing. The page
docs/benchmarks-speed.md is written from that file. About an hour on two CPU cores, on a quiet machine.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.common import MODEL, NUMBERS, PAGES, RUNS, cpu_name, write_numbers
from benchmarks.speed.history import history_of, peak_resident
from benchmarks.speed.page import write_page
from benchmarks.speed.timed_run import DEMONSTRATION, TURN, VARIANTS, TimedRun
from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.config import FilterConfig
from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji

BLOCK = 28
"""Windows taken from a run before the next has its turn: two turns of held-out pairs in the sieve that looks up, seven
in the batch."""
PLANTED = {0: [], 1: ["6x6"], 10: ["6x61"], 30: ["6x233"], DEMONSTRATION: ["6x2000"]}
"""Percent of the rows that belong to planted pairs, and what is planted for it."""
DRAWS = 4
"""Audited draws a pair."""


def main(
    out: Annotated[Path, typer.Option(help="JSON of the numbers.")] = NUMBERS / "speed.json",
    page: Annotated[Path, typer.Option(help="Page written from it.")] = PAGES / "benchmarks-speed.md",
    work: Annotated[Path, typer.Option(help="Data, audit and runs.")] = RUNS / "bench-speed",
    rounds: Annotated[int, typer.Option(help="Times that each run has its turn.")] = 6,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    audit: Annotated[Path | None, typer.Option(help="An audit of these pairs that is there; else one is made.")] = None,
    groups: Annotated[int, typer.Option(help="Groups in the history that is measured.")] = 10_000_000,
    only: Annotated[list[str] | None, typer.Option(help="Parts to measure, of those that are missing.")] = None,
    page_only: Annotated[bool, typer.Option(help="Write the page from the numbers that are there.")] = False,
) -> None:
    """Everything that is missing, then the page."""
    found = json.loads(out.read_text()) if out.is_file() else {}

    def note(name: str, part: dict[str, Any]) -> None:
        found[name] = {**part, "machine": machine(threads)}
        write_numbers(out, found)

    def turns(share: int, name: str) -> None:
        timed(work, share, threads, audit, found.get(name, {}), rounds, lambda part: note(name, part))

    parts: dict[str, Callable[[str], Any]] = {
        **{f"planted_{share}": partial(turns, share) for share in PLANTED},
        "audit": lambda name: note(name, audit_time(work, threads)),
        "memory": lambda name: note(name, {run: apart(peak_memory, run, work, threads, audit) for run in VARIANTS}),
        "history": lambda name: note(name, apart(history_of, groups)),
    }
    for name in only or []:
        if name not in parts:
            raise typer.BadParameter(f"'{name}' is not a part; the parts are {', '.join(parts)}", param_hint="--only")
    for name in [] if page_only else only or parts:
        if name not in found or name.startswith("planted_"):
            typer.echo(f"measuring: {name}", err=True)
            parts[name](name)
    if "planted_0" in found:
        write_page(page, found)
    typer.echo(f"numbers in {out}, page in {page}")


def timed(
    work: Path,
    share: int,
    threads: int,
    audit: Path | None,
    before: dict[str, Any],
    rounds: int,
    note: Callable[[dict[str, Any]], None],
) -> None:
    """Every run of ``VARIANTS`` on data with ``share`` percent planted rows, a block of windows each in turn, until
    there are ``rounds`` of them; each round is noted. Goes on from the rounds of ``before`` where they timed the same
    runs on as many threads; begins anew where they did not."""
    signals = FilterConfig().signals
    asked = {"windows": BLOCK, "threads": threads, "signals": signals, "runs": VARIANTS, "held_out_turn": TURN}
    blocks = before["blocks"] if before.get("asked") == asked else {}
    done = len(blocks.get("no filter", []))
    if done >= rounds:
        return
    torch.set_num_threads(threads)
    data, audit = dataset(work, share), audit or audited(work)
    runs = [TimedRun(name, data, work / "runs" / str(i), audit) for i, name in enumerate(VARIANTS)]
    for run in runs:
        run.block(2)  # what is made at the first use is made
    about = json.loads((data / "dataset.json").read_text())
    for number in range(done, rounds):
        taken = {run.name: run.block(BLOCK) for run in (runs if number % 2 == 0 else reversed(runs))}
        blocks = {run.name: [*blocks.get(run.name, []), taken[run.name]] for run in runs}
        part = {"rows": about["train_rows"], "planted_rows": about["planted_rows"], "asked": asked}
        note({**part, "blocks": blocks})


def dataset(work: Path, share: int) -> Path:
    """OpenMoji with that share of planted rows, built once."""
    folder = work / f"data-{share}"
    if not (folder / "dataset.json").is_file():
        build_openmoji(folder, DatasetPlan(size=32, plant=PLANTED[share]), overwrite=True)
    return folder


def audited(work: Path) -> Path:
    """An audit of the base model over all pairs, made once: planting repeats pairs, and an audit knows them by
    content."""
    folder = work / "audit"
    data = dataset(work, 0)
    score_shards(_audit_of([str(data / "train"), str(data / "held_out")]), folder)
    return folder


def _audit_of(shards: list[str]) -> AuditConfig:
    return AuditConfig.model_validate(
        {
            "data": {"path": shards, "resolution": 32},
            "model": str(MODEL),
            "seed": 0,
            "draws": DRAWS,
            "batch_size": 16,
        }
    )


def audit_time(work: Path, threads: int) -> dict[str, Any]:
    """Seconds that an audit of the held-out split takes, from its shards to its tables."""
    torch.set_num_threads(threads)
    data = dataset(work, 0)
    rows = int(json.loads((data / "dataset.json").read_text())["held_out_rows"])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        score_shards(_audit_of([str(data / "held_out")]), Path(folder) / "audit")
        return {"rows": rows, "draws": DRAWS, "seconds": time.perf_counter() - started}


def peak_memory(name: str, work: Path, threads: int, audit: Path | None) -> dict[str, Any]:
    """Largest resident size (bytes) of a process that trains one run for a few windows, and its tensors."""
    torch.set_num_threads(threads)
    run = TimedRun(name, dataset(work, 10), work / "runs" / "memory", audit or audited(work))
    run.block(BLOCK // 2)
    reference = run.session.scorer.reference if run.session.scorer is not None else None
    copied = sum(p.numel() * p.element_size() for p in reference.parameters()) if reference is not None else 0
    return {"peak_bytes": peak_resident(), "reference_copy_bytes": copied}


def apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """``work`` in a new process, whose memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def machine(threads: int) -> dict[str, Any]:
    """Where a part was measured."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }


if __name__ == "__main__":
    typer.run(main)
