"""Results of detect, verify and probe as a W&B run: numbers and histograms; prompts and pages only where asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

if TYPE_CHECKING:
    from memsieve.inference.copies.probe import ProbeResult
    from memsieve.inference.copies.verify import Match

__all__ = ["CheckRun", "upload_check", "upload_detection", "upload_matches", "upload_probe"]

ROWS = 200
"""Rows of an uploaded table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRun:
    """What goes up of a ``detect``, ``verify`` or ``probe``.

    Args:
        kind: which of the three.
        table: columns and rows, of which ``ROWS`` go up; left out unless the user opted in to prompts.
        files: as an artifact; likewise.
    """

    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    table: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = None
    files: Sequence[Path] = ()


def upload_check(project: str, folder: Path, check: CheckRun) -> None:
    """Make one W&B run of ``check``; offline where nobody is logged in, for ``wandb sync``.

    Args:
        folder: where an offline run is written.
    """
    import wandb

    from memsieve.train.wandb_start import start_wandb

    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {
        "project": project,
        "job_type": check.kind,
        "name": folder.resolve().name,
        "dir": str(folder),
        "config": dict(check.config),
    }
    with start_wandb(lambda more: wandb.init(**about, **more), "--wandb") as run:
        logged: dict[str, Any] = {f"{check.kind}/{what}": value for what, value in check.scalars.items()}
        for what, values in check.histograms.items():
            finite = [float(value) for value in values if value == value]
            if finite:
                logged[f"{check.kind}/{what}"] = wandb.Histogram(finite)
        if check.table is not None:
            columns, rows = check.table
            shown = [list(row) for row in rows[:ROWS]]
            logged[f"{check.kind}/table"] = wandb.Table(columns=list(columns), data=shown)
        run.log(logged)
        if check.files:
            artifact = wandb.Artifact(f"{check.kind}-files", type="report")
            for file in check.files:
                artifact.add_file(str(file), name=file.name)
            run.log_artifact(artifact)


def upload_detection(project: str, out: Path, samples: bool) -> None:
    """What ``memsieve detect`` left in ``out``."""
    asked = json.loads((out / "settings.json").read_text(encoding="utf-8"))
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    rows = [row for row in pq.read_table(out / "scores.parquet").to_pylist() if row["error"] is None]
    rows.sort(key=lambda row: -row["score"])
    columns = ("line", "prompt", "score", "p", "flagged", "cut")
    check = CheckRun(
        kind="detect", config=asked,
        scalars={name: value for name, value in summary.items() if isinstance(value, int | float)},
        histograms={"scores": [row["score"] for row in rows], "p_values": [row["p"] for row in rows]},
        table=(columns, [[row[name] for name in columns] for row in rows]) if samples else None,
        files=[out / "histogram.png"] if samples else [],
    )  # fmt: skip
    upload_check(project, out, check)


def upload_matches(project: str, out: Path, matches: Sequence[Match], config: Mapping[str, Any], samples: bool) -> None:
    """What ``memsieve verify`` found and left in ``out``."""
    good = sorted((m for m in matches if m.neighbours), key=lambda m: m.neighbours[0].distance)
    rows = [[m.name, m.neighbours[0].caption, m.neighbours[0].distance, m.p, m.copy] for m in good]
    copies = sum(bool(m.copy) for m in matches)
    decided = any(m.copy is not None for m in matches)
    check = CheckRun(
        kind="verify", config=config,
        scalars={
            "read": len(matches), "compared": len(good), "failed": len(matches) - len(good),
            **({"copies": copies, "copy_rate": copies / max(len(good), 1)} if decided else {}),
        },
        histograms={"distances": [m.neighbours[0].distance for m in good]},
        table=(("image", "nearest training caption", "distance", "p", "copy"), rows) if samples else None,
        files=[out / "matches.html"] if samples else [],
    )  # fmt: skip
    upload_check(project, out, check)


def upload_probe(
    project: str, folder: Path, results: Mapping[tuple[str, str], ProbeResult], config: Mapping[str, Any]
) -> None:
    """What ``memsieve probe`` found: a set of numbers for each kind of pairs and way of asking."""
    scalars: dict[str, float] = {}
    histograms: dict[str, list[float]] = {}
    for (pairs, by), result in results.items():
        name, rate = f"{pairs}/{by}".replace(" ", "_"), result.rate
        found = {"copies": rate.copies, "generations": rate.generations, "copy_rate": rate.rate}
        scalars |= {f"{name}/{what}": value for what, value in found.items()}
        scalars |= {f"{name}/copy_rate_low": rate.low, f"{name}/copy_rate_high": rate.high}
        histograms[f"{name}/own_distance"] = [verdict.own_distance for verdict in result.verdicts]
    upload_check(project, folder, CheckRun(kind="probe", config=config, scalars=scalars, histograms=histograms))
