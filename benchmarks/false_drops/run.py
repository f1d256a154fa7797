"""Is the false-drop rate kept over a pair's whole life? Synthetic streams, and real runs with nothing planted.

    scripts/bench false-drops                   everything that is missing, then the page
    scripts/bench false-drops --part synthetic  or oftener, a part of it, or real; page: the page of what is there

Cells (a setting and a seed) go to --work as they are done, and the same command goes on; several processes share the
work. A cell that another filter made, by its code, is measured anew. Numbers go to docs/benchmarks/false_drops.json;
docs/benchmarks-false-drops.md and its plot are written from that file. About 25 minutes for the streams and 40 for the
real runs on one CPU core.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.common import NUMBERS, PAGES, RUNS, write_numbers
from benchmarks.deciding import code_of_decisions
from benchmarks.false_drops.page import write_page
from benchmarks.false_drops.streams import RATES, Setting, simulate

SEEDS, REAL_SEEDS, STEPS = 8, 5, 320
SIEVE = Setting(budget=1.0)
SETTINGS = [
    *(replace(Setting(), correlation=c) for c in (0.0, 0.1, 0.3)),
    *(Setting(budget=b) for b in (0.08, 0.25, 1.0)),
    *(
        replace(base, **change)  # type: ignore[arg-type]
        for base in (Setting(), SIEVE)
        for change in (
            {"tails": "heavy"}, {"drift": "common"}, {"drift": "easier"}, {"drift": "easier", "gap": 0.3},
            {"order": "repeats"}, {"held_out": 64}, {"held_out": 512},
        )
    ),
    *(replace(SIEVE, correlation=c) for c in (0.0, 0.3)),
    *(replace(SIEVE, rate=rate) for rate in (0.01, 0.1)),
    replace(Setting(), visits=200), replace(SIEVE, visits=200),
    Setting(budget=0.25, order="repeats"),
    Setting(visits=60, clean=600), Setting(visits=60, clean=600, budget=1.0),  # a visit in every five sweeps
]  # fmt: skip
"""Around two settings, in the batch and at the loader, one thing changed at a time."""
OFTENER = [
    replace(Setting(planted=0, clean=500, rate=0.01, drift="learned", gap=2.5), budget=budget, **change)  # type: ignore[arg-type]
    for budget in (None, 0.25, 1.0)
    for change in (
        *({"visits": visits, "unlike": 0.5} for visits in (10, 20, 30)),
        {"visits": 30}, {"visits": 30, "unlike": 0.8},
        {"visits": 30, "unlike": 0.5, "sooner": 2}, {"visits": 30, "unlike": 0.5, "sooner": 3},
    )
]  # fmt: skip
"""Nothing planted, and pairs come round twice and three times as often: from the start, or after a third of the run,
when a sieve or ``data.repeats`` has taken out what stood between them. A visit teaches each what it teaches a planted
pair, some more and some less."""
console = Console(stderr=True, emoji=False)


def main(
    part: Annotated[str, typer.Option(help="synthetic, oftener, real, page, or all.")] = "all",
    work: Annotated[Path, typer.Option(help="Cells and runs.")] = RUNS / "false_drops",
    out: Annotated[Path, typer.Option(help="The JSON.")] = NUMBERS / "false_drops.json",
    page: Annotated[Path, typer.Option(help="The page.")] = PAGES / "benchmarks-false-drops.md",
    seeds: Annotated[int, typer.Option(help="Seeds of each synthetic setting.")] = SEEDS,
    real_seeds: Annotated[int, typer.Option(help="Seeds of the real runs.")] = REAL_SEEDS,
) -> None:
    """Measure what is missing, and write the page."""
    if part not in ("all", "synthetic", "oftener", "real", "page"):
        raise typer.BadParameter(f"'{part}' is not one of synthetic, oftener, real, page, all", param_hint="--part")
    torch.set_num_threads(1)
    cells = work / "cells"
    cells.mkdir(parents=True, exist_ok=True)
    if part in ("all", "synthetic", "oftener"):
        wanted = OFTENER if part == "oftener" else [*SETTINGS, *OFTENER]
        jobs = [(seed, setting) for seed in range(seeds) for setting in wanted]
        for seed, setting in track(jobs, "synthetic streams", console=console):
            name = setting.name.replace(", ", "_").replace(" ", "-")
            _cell(cells / f"{name}_{seed}.json", partial(_synthetic, setting, seed))
    if part in ("all", "real"):
        for seed in range(real_seeds):
            for mode in ("batch", "sieve"):
                _cell(cells / f"real-{mode}-{seed}.json", partial(_real, mode, seed, work))
    found = json.loads(out.read_text()) if out.is_file() else {}
    if part != "page":
        measured = collect(cells)
        found |= measured if part == "all" else {part: measured[part]}  # what was not asked for stays as it is
        write_numbers(out, found)
    write_page(page, found)
    console.print(f"numbers in {out}, page in {page}")


def _cell(path: Path, measure: Callable[[], dict[str, Any]]) -> None:
    """Measure what is not there, unless another process is at it."""
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if not path.is_file() or not _of_this_filter(json.loads(path.read_text())):
            cell = measure()
            write_numbers(path, {**cell, "decided_by": _deciding(cell)})


def _deciding(cell: dict[str, Any]) -> str:
    """A synthetic stream has a loader's delay of its own and reads no data: the loader's code has no say in it."""
    return code_of_decisions(at_the_loader=cell["name"] == "real sieve")


def _of_this_filter(cell: dict[str, Any]) -> bool:
    return cell.get("decided_by") == _deciding(cell)


def _synthetic(setting: Setting, seed: int) -> dict[str, Any]:
    return {"name": setting.name, "seed": seed, "setting": asdict(setting), **asdict(simulate(setting, seed))}


def _real(mode: str, seed: int, work: Path) -> dict[str, Any]:
    from accelerate.state import AcceleratorState, GradientState

    from benchmarks.false_drops.real import real_cell  # synthetic streams do without these imports

    AcceleratorState._reset_state()  # one run after the other in one process
    GradientState._reset_state()
    return {"name": f"real {mode}", **real_cell(mode, seed, STEPS, work)}


def collect(cells: Path) -> dict[str, Any]:
    """All cells that this filter made, by part."""
    rows = [json.loads(path.read_text()) for path in sorted(cells.glob("*.json"))]
    rows = [row for row in rows if _of_this_filter(row)]
    synthetic, oftener = (_by_setting(rows, settings) for settings in (SETTINGS, OFTENER))
    real = {
        mode: [row for row in rows if row["name"] == f"real {mode}"]
        for mode in ("batch", "sieve")
    }  # fmt: skip
    return {"synthetic": synthetic, "oftener": oftener, "real": real}


def _by_setting(rows: list[dict[str, Any]], settings: list[Setting]) -> dict[str, Any]:
    named = {setting.name: [row for row in rows if row["name"] == setting.name] for setting in settings}
    return {name: _summary(mine) for name, mine in named.items() if mine}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with intervals clustered by seed, and when planted pairs were condemned."""
    exposures = [value for row in rows for value in row["exposures"]]
    caught = sorted(value for value in exposures if value is not None)
    return {
        "setting": rows[0]["setting"],
        "seeds": len(rows),
        "condemned": interval([row["condemned"] for row in rows]),
        "passed": {str(rate): interval([row["passed"][str(rate)] for row in rows]) for rate in RATES},
        "planted": len(exposures),
        "planted_condemned": len(caught),
        "planted_median_exposures": caught[len(caught) // 2] if caught else None,
        "measured": float(np.mean([row["measured"] for row in rows])),
        "sweeps": rows[0]["sweeps"],
        "returning": [sum(row["returning"][i] for row in rows) for i in range(2)],
    }


def interval(values: list[float]) -> list[float]:
    """Mean over seeds and its 95 % interval: 4,000 bootstrap samples of seeds."""
    rows = np.asarray(values)
    drawn = rows[np.random.default_rng(0).integers(0, len(rows), (4000, len(rows)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return [round(float(v), 5) for v in (rows.mean(), low, high)]


if __name__ == "__main__":
    typer.run(main)
