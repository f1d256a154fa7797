"""Cells written by hand, as a finished one is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.quality.cell import Cell, Plan

__all__ = ["fixture_cell"]


def fixture_cell(method: str, seed: int, found: bool, **more: Any) -> dict[str, Any]:
    """A cell of 4 pairs at 100 exposures and 200 clean ones."""
    plan = Plan(Path(), Path())
    pairs = [{"pair": f"p{i}", "case": "level 100", "repeats": 20, "visits": 100, "trained": 100, "late": float(found),
              "first": 40 + i if found else None, "condemned": float(found), "dropped": found,
              "score": 5.0 if found else 0.5} for i in range(4)]  # fmt: skip
    singles = {"clean": {"count": 200, "score": [i / 200 for i in range(200)], "visits": [1] * 200, "dropped": [3]}}
    copied = {f"p{i}": {"case": "level 100", "copies": [int(not found), 0], "own": [1, 1]} for i in range(4)}
    return {
        "hash": plan.hash(Cell(method, "planted", seed)), "method": method, "case": "planted", "seed": seed,
        "settings": plan.settings(Cell(method, "planted", seed)),
        "tuned": None, "machine": {"processor": "a processor", "cores": 2, "torch": "2"},
        "rows": {"stream": 1000, "oracle": 200},
        "cpu_seconds_per_step": 0.2, "pairs": pairs, "singles": singles, "generations": copied,
        "held_out": [0.1, 0.2, 0.3] if method == "oracle" else [0.11, 0.22, 0.33], **more,
    }  # fmt: skip
