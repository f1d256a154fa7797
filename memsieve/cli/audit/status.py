"""``memsieve audit status``: what is done, and what is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from memsieve.cli.audit.common import RunFolder, leave
from memsieve.cli.common import error_console, out_console

if TYPE_CHECKING:
    from memsieve.filtering.audit.status import Status

__all__ = ["status"]


def status(
    run: RunFolder,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What is done, missing, stale or truncated, and when it will be finished.

    Exit code 1 where shards are missing, stale or gone; 3 where all are done and some are truncated or damaged; 4 where
    all are done and no sample can be used.
    """
    from memsieve.filtering.audit.status import audit_status, why_useless

    found = audit_status(run)
    if as_json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        _print_status(found)
    if found.useless:
        error_console.print(why_useless(run), style="red", markup=False, highlight=False, soft_wrap=True)
    leave(found)


def _print_status(found: Status) -> None:
    table = Table("shards", "number")
    for name in ("done", "missing", "stale", "gone"):
        table.add_row(name, f"{found.counts[name]:,}")
    table.add_row("truncated or damaged", f"{found.counts['truncated']:,}")
    table.add_section()
    for name, number in sorted(found.statuses.items()):
        table.add_row(f"samples: {name}", f"{number:,}")
    out_console.print(table)
    for state in [state for state in found.states if state.state != "done"][:10]:
        error_console.print(
            f"{state.state}: {state.task.name}: {state.why}", markup=False, soft_wrap=True, highlight=False
        )
    if found.eta_seconds:
        error_console.print(f"about {_duration(found.eta_seconds)} left, at the rate of the last shards")


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), round(seconds / 3600, 1)
    return f"{hours} hours" if minutes >= 120 else f"{minutes} minutes" if minutes else f"{seconds:.0f} s"
