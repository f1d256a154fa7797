"""The planted-duplicates benchmark: every method on the same stream, seeds and order, cell by cell.

    scripts/bench quality                                   what is missing of the small matrix, then the page
    scripts/bench quality --methods ours,paper --seeds 0    these cells only
    scripts/bench quality --page-only                       docs/benchmarks.md and its plot, of what is there

A cell is a method on a case and a seed; its numbers are a JSON under docs/benchmarks/quality/, and a cell whose JSON
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
from benchmarks.quality.cell import Cell, Plan, run_cell
from benchmarks.quality.methods import CASES, METHODS
from benchmarks.quality.page import write_page

NOTHING = ("ours", "ours_sieve", "ours_magnitude")
"""Methods whose false drops are measured where nothing is planted, on demand: scripts/bench false-drops has more."""
SMALL = [method.name for method in METHODS.values() if not method.extra]
console = Console(stderr=True, emoji=False, highlight=False)


def main(
    methods: Annotated[
        str, typer.Option(help="Of these, in this order, separated by commas; all where left out.")
    ] = "",
    cases: Annotated[str, typer.Option(help="planted, nothing (memorised), separated by commas.")] = "planted",
    seeds: Annotated[str, typer.Option(help="Separated by commas.")] = "0,1,2",
    results: Annotated[Path, typer.Option(help="The JSONs.")] = NUMBERS / "quality",
    work: Annotated[Path, typer.Option(help="Data and runs.")] = RUNS / "quality",
    page: Annotated[Path, typer.Option(help="The page made of them.")] = PAGES / "benchmarks.md",
    keep_ledgers: Annotated[Path | None, typer.Option(help="Keep the ledgers of observe at PATHN, N the seed.")] = None,
    page_only: Annotated[bool, typer.Option("--page-only", help="Run nothing.")] = False,
) -> None:
    """Run what is missing, and write the page."""
    torch.set_num_threads(1)
    plan = Plan(work, results, keep_ledgers=keep_ledgers)
    wanted = cells_of(
        _names(methods, list(METHODS), "--methods", SMALL),
        _names(cases, CASES, "--cases", ["planted"]),
        _numbers(seeds),
    )
    if not page_only:
        run_cells(plan, wanted)
    write_page(page, plan, small_matrix())


def small_matrix() -> list[Cell]:
    """The cells that are to be published."""
    return cells_of(SMALL, ["planted"], [0, 1, 2])


def cells_of(methods: list[str], cases: list[str], seeds: list[int]) -> list[Cell]:
    """Seed by seed, the planted cells first."""
    return [
        Cell(method, case, seed)
        for seed in seeds
        for case in cases
        for method in methods
        if case == "planted" or method in NOTHING
    ]


def run_cells(plan: Plan, wanted: list[Cell]) -> None:
    """Those that are missing, with what they need first, one after the other."""
    cells: list[Cell] = []
    for cell in wanted:
        needed = plan.needs(cell)
        cells += [c for c in (needed, cell) if c is not None and c not in cells]
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


def _names(text: str, known: Sequence[str], option: str, default: list[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()] or default
    for name in names:
        if name not in known:
            raise typer.BadParameter(f"{option}: '{name}' is not one of {', '.join(known)}")
    return names


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--seeds: '{text}' must be numbers separated by commas, for example 0,1,2") from None


if __name__ == "__main__":
    typer.run(main)
