"""Does a fine-tune copy, and what does it learn? Every method on the same streams, seeds and order, cell by cell.

    scripts/bench copying                                       what is missing of tier 1, then the page
    scripts/bench copying --tier 2                              of tier 2, or 3: the small sets
    scripts/bench copying --methods ours,none --streams mixed --seeds 0     these cells only
    scripts/bench copying --page-only                           the page, of what is there

A cell is a method on a stream and a seed; its numbers are a JSON under docs/benchmarks/copying/, and a cell whose JSON
was made with the same settings is not run again. Ctrl-C stops after the present step; the same command goes on there.
Two such commands may run side by side: each cell is run by one of them.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.common import NUMBERS, PAGES, RUNS
from benchmarks.copying.cell import run_cell
from benchmarks.copying.methods import METHODS, STREAMS, TIERS
from benchmarks.copying.page import write_page
from benchmarks.copying.plan import Cell, Plan, published

console = Console(stderr=True, emoji=False, highlight=False)


def main(
    tier: Annotated[int, typer.Option(min=1, max=3, help="1: what everybody asks; 2: the rest; 3: small sets.")] = 1,
    methods: Annotated[str, typer.Option(help="Of these, in this order, separated by commas, instead of a tier.")] = "",
    streams: Annotated[str, typer.Option(help=f"With --methods; of {', '.join(STREAMS)}.")] = "mixed",
    seeds: Annotated[str, typer.Option(help="Separated by commas; the tier's own where left out.")] = "",
    results: Annotated[Path, typer.Option(help="The JSONs.")] = NUMBERS / "copying",
    work: Annotated[Path, typer.Option(help="Data and runs.")] = RUNS / "copying",
    page: Annotated[Path, typer.Option(help="The page made of them.")] = PAGES / "benchmarks-copying.md",
    page_only: Annotated[bool, typer.Option("--page-only", help="Run nothing.")] = False,
) -> None:
    """Run what is missing, and write the page."""
    torch.set_num_threads(1)
    plan = Plan(work, results)
    if not page_only:
        numbers = _numbers(seeds)
        if methods:
            wanted = [
                Cell(method, stream, seed)
                for seed in numbers or (0, 1, 2)
                for stream in _names(streams, list(STREAMS), "--streams")
                for method in _names(methods, list(METHODS), "--methods")
            ]
        else:
            wanted = published(tier, numbers)
        run_cells(plan, wanted)
    write_page(page, plan, [cell for number in TIERS for cell in published(number)])


def run_cells(plan: Plan, wanted: Sequence[Cell]) -> None:
    """Those that are missing, with what they need first, one after the other."""
    cells: list[Cell] = []
    for cell in wanted:
        cells += [c for c in (plan.needs(cell), cell) if c is not None and c not in cells]
    took: list[float] = []
    for number, cell in enumerate(cells):
        with _claimed(plan, cell) as mine:
            if not mine or plan.result(cell) is not None:
                continue
            if (needed := plan.needs(cell)) is not None and plan.result(needed) is None:
                console.print(f"{cell.name} waits for {needed.name}, which another process is making")
                continue
            left = sum(plan.result(c) is None for c in cells[number:])
            eta = f", about {sum(took) / len(took) * left / 60:.0f} min left" if took else ""
            console.print(f"cell {number + 1} of {len(cells)}, {left} to do{eta}: {cell.name}")
            started = time.perf_counter()
            try:
                run_cell(plan, cell, console.print)
            except KeyboardInterrupt:
                console.print("stopped; the same command goes on")
                raise typer.Exit(130) from None
            took.append(time.perf_counter() - started)
            console.print(f"{cell.name}: done in {took[-1] / 60:.1f} min")


@contextmanager
def _claimed(plan: Plan, cell: Cell) -> Iterator[bool]:
    """Whether this process is the one that runs ``cell``."""
    folder = plan.work / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / cell.name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def _names(text: str, known: Sequence[str], option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{option}: '{name}' is not one of {', '.join(known)}")
    return names


def _numbers(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(part) for part in text.split(",")) if text else None
    except ValueError:
        raise typer.BadParameter(f"--seeds: '{text}' must be numbers separated by commas, for example 0,1,2") from None


if __name__ == "__main__":
    typer.run(main)
