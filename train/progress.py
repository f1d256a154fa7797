"""The bar on the terminal while a run trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from memsieve.train.session import Session
from memsieve.train.step import WindowResult

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(session: Session) -> Iterator[Callable[[WindowResult], None]]:
    """A bar with rate and ETA on the main process; what is yielded moves it: ``advance(result)``, after each window."""
    columns = [
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    console = Console(stderr=True, emoji=False)
    with Progress(*columns, console=console, disable=not session.accelerator.is_main_process) as progress:
        task = progress.add_task("training", total=session.total_steps, completed=session.step, note="")

        def advance(result: WindowResult) -> None:
            condemned = len(session.filter.condemned) if session.filter else 0
            rate = result.eligible / max(session.times[-1], 1e-6)
            note = f"loss {result.loss:.4f}  {rate:.0f} samples/s"
            progress.update(task, completed=session.step, note=note + (f"  {condemned} condemned" if condemned else ""))

        yield advance
