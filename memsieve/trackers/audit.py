"""An audit as a W&B run: its summary, histograms by t, and the page as an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import wandb

from memsieve.filtering.audit.summary import Summary
from memsieve.train.wandb_start import start_wandb

__all__ = ["upload_audit"]

SCALARS = (
    "rows", "scored", "failed", "pairs", "duplicate_groups", "duplicate_samples", "near_duplicate_groups", "done",
    "missing", "stale", "truncated",
)  # fmt: skip


def upload_audit(run: Path, page: Path, summary: Summary, project: str) -> None:
    """Make one W&B run of the audit in ``run``; offline where nobody is logged in, for ``wandb sync`` later.

    Args:
        page: what goes up as the report, with samples or without, as the caller chose.
    """
    values = summary.values
    config = {"settings": values["settings"], "model": values["model"], "reference": values["reference"]}
    about: dict[str, Any] = {
        "project": project,
        "job_type": "audit",
        "name": run.resolve().name,
        "dir": str(run),
        "config": config,
    }
    with start_wandb(lambda more: wandb.init(**about, **more), "--wandb") as logged:
        for name in SCALARS:
            logged.summary[f"audit/{name}"] = values[name]
        for name, value in values["statuses"].items():
            logged.summary[f"audit/status/{name}"] = value
        for name, value in values.get("truth", {}).items():
            logged.summary[f"audit/truth/{name}"] = value
        logged.log(
            {
                f"audit/{measure}/{label.replace(' ', '_')}": wandb.Histogram(
                    np_histogram=(counts.tolist(), edges.tolist())
                )
                for measure, found in summary.histograms.items()
                for label, edges, counts in found
            }
        )
        artifact = wandb.Artifact("audit-report", type="report")
        artifact.add_file(str(page), name="report.html")
        artifact.add_file(str(page.with_name("summary.json")), name="summary.json")
        logged.log_artifact(artifact)
