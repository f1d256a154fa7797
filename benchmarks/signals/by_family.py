"""At which t a visit tells a memorised pair, by kind of model: what ``filter.max_timestep`` should be.

    scripts/bench timesteps --package iconify-json-twemoji-1.2.5.tgz

A base of each kind is trained from nothing on OpenMoji without repeats, then fine-tuned without a filter on Twemoji
with planted levels, one pass, once a seed; planted, ordinary and held-out pairs are scored at a fixed grid of draws.
For each limit the visits below it count: what a pair's visits come to together, by the mean over the draws that are
left, says which limit finds most. Numbers go to docs/benchmarks/timesteps.json. The same command goes on where it was
stopped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.common import NUMBERS, RUNS, machine, write_numbers
from benchmarks.signals.data import build_shifted
from benchmarks.signals.families import FAMILIES, trained_base
from benchmarks.signals.run import CALIBRATING, _auc, _calibrated
from benchmarks.signals.scores import fine_tune, score
from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji

__all__ = ["best_limit", "main", "table_of"]

PARTS: Final = 10
LIMITS: Final = tuple(round(0.3 + 0.05 * i, 2) for i in range(15))
"""Shares of the schedule's timesteps, from 0 on, whose visits count."""
SIGNALS: Final = ("reference_residual", "drift", "anchored_magnitude", "magnitude")
JUDGED: Final = ("25", "50", "100")
"""Exposures by which a limit is chosen: fewer are noise, more are found at any."""
console = Console(stderr=True, emoji=False)


def main(
    package: Annotated[Path, typer.Option(help="The .tgz of @iconify-json/twemoji 1.2.5.")],
    work: Annotated[Path, typer.Option(help="Data, runs and scores.")] = RUNS / "timesteps",
    out: Annotated[Path, typer.Option(help="The JSON.")] = NUMBERS / "timesteps.json",
    base_steps: Annotated[int, typer.Option(help="Of a base, from nothing.")] = 6000,
    seeds: Annotated[int, typer.Option(help="Fine-tunes of each kind.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(FAMILIES)}.")] = None,
) -> None:
    """Measure what is missing, and print which limit is best for each kind."""
    torch.set_num_threads(1)
    for name in only or []:
        if name not in FAMILIES:
            raise typer.BadParameter(f"'{name}' is none of {', '.join(FAMILIES)}", param_hint="--only")
    found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    for family in only or FAMILIES:
        runs = [_scored(work, family, seed, package, base_steps) for seed in range(seeds)]
        found[family] = table_of(runs) | {"base_steps": base_steps, "machine": machine()}
        write_numbers(out, found)
    _print(found)
    console.print(f"numbers in {out}")


def _scored(work: Path, family: str, seed: int, package: Path, base_steps: int) -> dict[str, Any]:
    """Every signal after one fine-tune; made where it is missing."""
    folder = work / family
    scores = folder / f"scores-{seed}.json"
    if not scores.is_file():
        plain, data = work / "openmoji", work / f"twemoji-{seed}"
        if not (plain / "dataset.json").is_file():
            build_openmoji(plain, DatasetPlan(size=32), overwrite=True)
        if not (data / "dataset.json").is_file():
            build_shifted(data, package, seed)
        console.print(f"{family}, seed {seed}: training and scoring")
        base = trained_base(family, plain, folder, base_steps)
        pipeline = fine_tune(data, folder / f"run-{seed}", seed, base=base)
        write_numbers(scores, score(data, pipeline, base))
    return dict(json.loads(scores.read_text()))


def table_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """AUC of each signal by exposures: of single visits in each tenth of the timesteps, and of the mean over a pair's
    visits below each limit."""
    repeats, split, t = (np.concatenate([np.array(run[name]) for run in runs]) for name in ("repeats", "split", "t"))
    z = {name: np.concatenate([_calibrated(run, (name,), _calibrating(run)) for run in runs]) for name in SIGNALS}
    used = np.concatenate([np.isin(np.arange(len(run["split"])), _calibrating(run)) for run in runs])
    clean = np.flatnonzero(((split == "train") & (repeats == 1)) | ((split == "held_out") & ~used))
    levels = sorted({int(r) for r in repeats if r > 1})
    part = np.minimum(t * PARTS // 1000, PARTS - 1)
    found: dict[str, Any] = {"pairs": {str(n): int((repeats == n).sum()) for n in levels}, "clean": len(clean)}
    for name, values in z.items():
        by_part, by_limit = {}, {}
        for level in levels:
            planted = np.flatnonzero(repeats == level)
            by_part[str(level)] = [
                round(_auc(values[planted][part[planted] == b], values[clean][part[clean] == b]), 3)
                for b in range(PARTS)
            ]
            by_limit[str(level)] = [
                round(_auc(_mean(values, t, limit)[planted], _mean(values, t, limit)[clean]), 3) for limit in LIMITS
            ]
        found[name] = {"by_part": by_part, "by_limit": by_limit, "best": best_limit(by_limit)}
    return found


def _calibrating(run: dict[str, Any]) -> Any:
    """Rows of the held-out pairs that calibrate."""
    return np.flatnonzero(np.array(run["split"]) == "held_out")[:CALIBRATING]


def _mean(values: Any, t: Any, limit: float) -> Any:
    """Mean score of each pair's visits at t below the limit, [pairs]."""
    counts = np.where(t < limit * 1000, values, np.nan)
    some: Any = np.isfinite(counts).any(axis=1)
    return np.where(some, np.nanmean(np.where(some[:, None], counts, 0.0), axis=1), np.nan)


def best_limit(by_limit: dict[str, list[float]]) -> float:
    """The limit with the largest mean AUC over ``JUDGED``; of those within .005 of it the largest, which measures more
    visits."""
    means = np.mean([by_limit[level] for level in JUDGED if level in by_limit], axis=0)
    return LIMITS[int(np.flatnonzero(means >= means.max() - 0.005)[-1])]


def _print(found: dict[str, Any]) -> None:
    table = Table("kind", "signal", "best limit", "AUC of one visit at 50 exposures, by tenth of t")
    for family, part in found.items():
        for name in SIGNALS:
            shown = " ".join(f"{value:.2f}" for value in part[name]["by_part"].get("50", []))
            table.add_row(family, name, f"{part[name]['best']:.2f}", shown)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
