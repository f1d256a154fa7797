"""Real fine-tunes with nothing planted: which ordinary pairs the filter condemns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji
from memsieve.filtering.evidence.table import EvidenceTable
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.settings import load_settings
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.session import Session, set_up

__all__ = ["RATES", "build_data", "real_cell"]

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {"batch": "openmoji.yaml", "sieve": "openmoji_sieve.yaml"}
RATES = (0.01, 0.05)


SHARDS = "{00000..00007}.tar"
"""520 of the training pairs, so that each is visited often in a few minutes."""


def build_data(out: Path) -> Path:
    """OpenMoji, nothing planted, once; in the split that the base model was trained by."""
    if not (out / "dataset.json").is_file():
        build_openmoji(out, DatasetPlan(size=32, shard_size=65), overwrite=True)
    return out


def real_cell(mode: str, seed: int, steps: int, work: Path, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """One run of ``steps`` steps with the filter on; resumed where it was stopped.

    Groups are condemned, and dropped, at a rate of .01. What .05 would have condemned is read off the same run: the
    smallest p-value of each group at any look.
    """
    data, run = build_data(work / "data"), work / f"{mode}-{seed}"
    settings = [
        f"output={run}", f"model.path={ROOT / 'assets' / 'tiny-sd'}", f"data.path={data / 'train' / SHARDS}",
        f"data.held_out_path={data / 'held_out'}", f"train.steps={steps}", f"train.seed={seed}", "validation.every=0",
        "validation.held_out_pairs=32", "checkpoint.export=false", "checkpoint.every=100", *overrides,
    ]  # fmt: skip
    session = set_up(load_settings(RunConfig, ROOT / "configs" / "train" / CONFIGS[mode], settings))
    lowest = _watch(session, run / "lowest.json")
    summary = fit(session)
    assert session.filter is not None
    table = session.filter.groups
    scored = {name for name, count in zip(table.names, table["scored"], strict=True) if count > 0}
    return {
        "mode": mode, "seed": seed, "steps": steps, "groups": len(table), "scored": len(scored),
        "visits_mean": float(np.mean(table["exposures"])), "measured_mean": float(np.mean(table["scored"])),
        "held_out": len(session.filter.panel), "sweeps": session.filter.panel.sweep,
        "condemned": len(session.filter.condemned), "overfitting": session.filter.overfitting,
        "passed": {str(rate): sum(p <= rate for p in lowest.values()) for rate in RATES},
        "shift": _shift(table, session.filter.panel.table),
        "heldout_loss": summary["heldout_loss"], "step_seconds": summary["step_seconds_median"],
    }  # fmt: skip


def _watch(session: Session, path: Path) -> dict[str, float]:
    """The smallest p-value of each group at any look, also over a resume."""
    assert session.filter is not None
    panel = session.filter.panel
    saved = json.loads(path.read_text()) if path.is_file() and session.step else {}
    lowest: dict[str, float] = saved
    judge, compare = panel.judge, panel.compare

    def note(groups: EvidenceTable, rows: Any) -> None:
        for row in rows:
            name = groups.names[row]
            lowest[name] = min(lowest.get(name, 1.0), float(groups["p_value"][row]))

    def judged(groups: EvidenceTable, exchange: Exchange) -> Any:
        guilty = judge(groups, exchange)
        note(groups, range(len(groups)))
        path.write_text(json.dumps(lowest))
        return guilty

    def compared(groups: EvidenceTable, rows: Any) -> Any:
        guilty = compare(groups, rows)
        note(groups, rows)
        return guilty

    panel.judge, panel.compare = judged, compared  # type: ignore[method-assign]
    return lowest


def _shift(groups: EvidenceTable, held_out: EvidenceTable) -> float:
    """How far the training pairs' median evidence lies above the held-out pairs' median."""
    seen = groups["scored"] > 0
    return float(np.median(groups["evidence"][seen]) - np.median(held_out["evidence"]))
