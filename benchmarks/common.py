"""What all benchmarks share: where things lie, how numbers are written, and what a page says of their age."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from memsieve.filtering.files import write_whole

__all__ = [
    "CONFIGS",
    "MEASURED_AT",
    "MODEL",
    "NUMBERS",
    "PAGES",
    "ROOT",
    "RUNS",
    "cpu_name",
    "machine",
    "over_seeds",
    "stamped",
    "write_lines",
    "write_numbers",
]

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = ROOT / "docs"
NUMBERS: Final = PAGES / "benchmarks"
"""The published numbers and plots."""
RUNS: Final = ROOT / "runs"
CONFIGS: Final = ROOT / "configs" / "train"
MODEL: Final = ROOT / "assets" / "tiny-sd"
"""The base model of every benchmark."""
MEASURED_AT: Final = NUMBERS / "measured_at.txt"
"""The revision that all published numbers are of, where the code that decides has changed since; gone once they are
measured anew."""
STUDENT: Final = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78}
"""97.5 % points of Student's t by degrees of freedom; 2.6 for more, which is never too little."""


def write_numbers(path: Path, value: dict[str, Any]) -> None:
    """``value`` as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=1) + "\n")


def write_lines(path: Path, value: dict[str, Any]) -> None:
    """``value`` as JSON, whole or not at all; lists of numbers on one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(name)}: {_line(part)}" for name, part in value.items()]
    write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n")


def _line(part: Any) -> str:
    if isinstance(part, list) and part and isinstance(part[0], dict):
        return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in part) + "\n ]"
    return json.dumps(part)


def stamped(page: str) -> str:
    """``page`` with the revision that its numbers are of under its first headline."""
    if not MEASURED_AT.is_file():
        return page
    revision = MEASURED_AT.read_text(encoding="utf-8").strip()
    said = f"*All numbers on this page were measured with revision {revision}; the code has changed since.*"
    return page.replace("\n\n", f"\n\n{said}\n\n", 1)


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of two seeds or more and its 95 % interval (Student), of what cannot be negative."""
    mean = float(np.mean(values))
    half = float(np.std(values, ddof=1)) / len(values) ** 0.5 * STUDENT.get(len(values) - 1, 2.6)
    return mean, max(mean - half, 0.0), mean + half


def cpu_name() -> str:
    """The processor's model, for people."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """Where this ran."""
    return {"processor": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "python": platform.python_version()}  # fmt: skip
