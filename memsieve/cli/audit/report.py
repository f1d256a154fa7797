"""``memsieve audit report``: the page of an audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from memsieve.cli.audit.common import RunFolder, leave, signal_names
from memsieve.cli.common import Wandb, WandbSamples

__all__ = ["report"]


def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="The page; RUN/report.html by default.")] = None,
    top: Annotated[int, typer.Option(min=0, max=1000, help="Pairs in the ranking.")] = 100,
    score: Annotated[str | None, typer.Option(help="What is ranked by, as for select.")] = None,
    reference: Annotated[Path | None, typer.Option(help="Audit of the same data by the base model.")] = None,
    truth: Annotated[Path | None, typer.Option(help="truth.parquet of a dataset with planted pairs.")] = None,
    planted_from: Annotated[int, typer.Option(help="Repeats from which a pair counts as planted.")] = 50,
    wandb: Wandb = None,
    wandb_samples: WandbSamples = False,
) -> None:
    """One self-contained page and a summary.json. Exit codes as those of status."""
    from memsieve.pages.audit import build_audit_report

    options: dict[str, Any] = {
        "top": top,
        "signals": signal_names(score),
        "reference": reference,
        "truth": truth,
        "planted_from": planted_from,
    }
    page, summary = build_audit_report(run, out, **options)
    print(page)
    if wandb is not None:
        from memsieve.trackers.audit import upload_audit

        shared = page
        if not wandb_samples:
            shared, _ = build_audit_report(run, run / "shared" / "report.html", samples=False, **options)
        upload_audit(run, shared, summary, wandb)
    leave(summary.status)
