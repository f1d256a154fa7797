"""Measurements of prompts on disk, of one set of settings, so that a command that was stopped goes on with the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from memsieve.filtering.files import read_json_lines
from memsieve.inference.detect.detectors import PromptMeasurement
from memsieve.inference.resume import append_rows, refuse_other_settings

__all__ = ["KeptMeasurements", "measurements_on_disk"]


class KeptMeasurements(NamedTuple):
    """Measurements made before, by prompt, and a function that keeps one more."""

    known: dict[str, PromptMeasurement]
    keep: Callable[[PromptMeasurement], None]


@contextmanager
def measurements_on_disk(path: Path, asked: dict[str, Any], resume: bool) -> Iterator[KeptMeasurements]:
    """What ``path`` holds, one line a measurement; begun anew unless ``resume`` is on.

    Raises:
        ValueError: they are of other settings.
    """
    rows = read_json_lines(path) if resume else []
    if rows:
        refuse_other_settings(rows[0], asked, path)
    else:
        path.unlink(missing_ok=True)
    with append_rows(path) as write:
        if not rows:
            write(json.loads(json.dumps(asked)))

        def keep(m: PromptMeasurement) -> None:
            cosine = None if m.cosine is None else m.cosine.tolist()
            per_step = {name: values.tolist() for name, values in m.per_step.items()}
            write({"prompt": m.prompt, "per_step": per_step, "cosine": cosine, "seconds": m.seconds})

        yield KeptMeasurements({row["prompt"]: _measurement(row) for row in rows[1:]}, keep)


def _measurement(row: dict[str, Any]) -> PromptMeasurement:
    cosine = None if row["cosine"] is None else np.asarray(row["cosine"], dtype=np.float64)
    # Of version 0.1: the magnitude alone.
    measured = row["per_step"] if "per_step" in row else {"magnitude": row["magnitudes"]}
    per_step = {name: np.asarray(values, dtype=np.float64) for name, values in measured.items()}
    return PromptMeasurement(row["prompt"], per_step, cosine, row["seconds"])
