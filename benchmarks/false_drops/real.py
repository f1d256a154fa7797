"""Real fine-tunes with nothing planted: which ordinary pairs the filter condemns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import CONFIGS, MODEL
from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji
from memsieve.filtering.evidence.table import EvidenceTable
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.rules import EvidenceRule, WindowEnd
from memsieve.filtering.settings import load_settings
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up

__all__ = ["RATES", "build_data", "real_cell"]

SHIPPED = {"batch": "openmoji.yaml", "sieve": "openmoji_sieve.yaml"}
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
        f"output={run}", f"model.path={MODEL}", f"data.path={data / 'train' / SHARDS}",
        f"data.held_out_path={data / 'held_out'}", f"train.steps={steps}", f"train.seed={seed}", "validation.every=0",
        "validation.held_out_pairs=32", "checkpoint.export=false", "checkpoint.every=100", *overrides,
    ]  # fmt: skip
    session = set_up(load_settings(RunConfig, CONFIGS / SHIPPED[mode], settings))
    assert session.filter is not None
    watched = _Watched(session.filter, run / "lowest.json", resumed=session.step > 0)
    session.filter.rule = watched
    summary = fit(session)
    assert session.filter is not None
    table = session.filter.groups
    scored = {name for name, count in zip(table.names, table["scored"], strict=True) if count > 0}
    return {
        "mode": mode, "seed": seed, "steps": steps, "groups": len(table), "scored": len(scored),
        "visits_mean": float(np.mean(table["exposures"])), "measured_mean": float(np.mean(table["scored"])),
        "held_out": len(session.filter.held_out), "sweeps": session.filter.held_out.sweep,
        "condemned": len(session.filter.condemned), "overfitting": session.filter.overfitting,
        "passed": {str(rate): sum(p <= rate for p in watched.lowest.values()) for rate in RATES},
        "shift": _shift(table, session.filter.held_out.table),
        "heldout_loss": summary["heldout_loss"], "step_seconds": summary["step_seconds_median"],
    }  # fmt: skip


class _Watched(EvidenceRule):
    """The rule, and the smallest p-value of each group at any look, kept in a file for a resume."""

    def __init__(self, sieve: MemorizationFilter, path: Path, resumed: bool) -> None:
        super().__init__(sieve.config, sieve.held_out)
        self.load_state_dict(sieve.rule.state_dict())
        self.path = path
        self.lowest: dict[str, float] = json.loads(path.read_text()) if path.is_file() and resumed else {}

    def test_and_condemn(self, window: WindowEnd) -> None:
        super().test_and_condemn(window)
        for row in range(len(window.groups)) if window.swept else window.measured:
            name = window.groups.names[row]
            self.lowest[name] = min(self.lowest.get(name, 1.0), float(window.groups["p_value"][row]))
        if window.swept:
            self.path.write_text(json.dumps(self.lowest))


def _shift(groups: EvidenceTable, held_out: EvidenceTable) -> float:
    """How far the training pairs' median evidence lies above the held-out pairs' median."""
    seen = groups["scored"] > 0
    return float(np.median(groups["evidence"][seen]) - np.median(held_out["evidence"]))
