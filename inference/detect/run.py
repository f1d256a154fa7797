"""A detection over a file, on disk: results flushed as they come, resumed by the same command, summed up at the end.

OUT/settings.json     what was asked; a resumed run must ask the same
OUT/reference.jsonl   the ordinary prompts' measurements
OUT/scores.jsonl      a line for each line of the file, as they come
OUT/scores.parquet, histogram.png, summary.json   at the end
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.files import read_json_lines, write_json
from memsieve.inference.charts import histogram
from memsieve.inference.detect.detect import Detection, check_rate, detect_rows, ordinary_of
from memsieve.inference.detect.detectors import DetectSettings, PromptMeasurement
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.detect.ordinary import OrdinaryPrompts
from memsieve.inference.guided import GuidedModel
from memsieve.inference.progress import progress_bar
from memsieve.inference.prompts.lists import ordinary_prompts, read_prompts
from memsieve.inference.resume import append_rows, refuse_other_settings
from memsieve.inference.weights import weights_identity

__all__ = ["DetectionRun", "detect_file"]

SCHEMA = pa.schema(
    [
        ("line", pa.int64()), ("prompt", pa.string()), ("score", pa.float64()), ("p", pa.float64()),
        ("flagged", pa.bool_()), ("components", pa.map_(pa.string(), pa.float64())),
        ("steps", pa.int64()), ("per_step", pa.list_(pa.float64())), ("seconds", pa.float64()),
        ("cut", pa.string()), ("error", pa.string()),
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionRun:
    """A detection over a file.

    Args:
        prompts: as ``read_prompts`` takes it.
        out: folder for the results.
        ordinary: a file of prompts known not to be memorised; the shipped list if left out.
        false_positive_rate: share of ordinary prompts that may be flagged.
        batch: images at a time.
        per_step: whether the magnitude of each step is kept.
        resume: whether to go on with the results in ``out``.
        progress: whether a bar is shown.
    """

    prompts: Path
    out: Path
    settings: DetectSettings
    ordinary: Path | None = None
    false_positive_rate: float = 0.01
    batch: int = 16
    per_step: bool = True
    resume: bool = False
    progress: bool = True

    def asked(self, model: GuidedModel, known: Sequence[str]) -> dict[str, Any]:
        """What the results depend on; ``known`` are the ordinary prompts."""
        return {
            "settings": asdict(self.settings),
            "scheduler": model.scheduler_name,
            "false_positive_rate": self.false_positive_rate,
            "per_step": self.per_step,
            "prompts": _digest(self.prompts),
            "ordinary": hashlib.sha256("\n".join(known).encode()).hexdigest(),
            "model": weights_identity(model.model),
            "base": None if model.base is None else weights_identity(model.base.network),
        }


def detect_file(model: GuidedModel, run: DetectionRun) -> dict[str, Any]:
    """Judge every line of ``run.prompts`` and write the results under ``run.out``; returns the summary.

    In the summary read = scored + failed. Stopped at any moment, the same call with ``resume`` measures only what is
    missing.

    Raises:
        ValueError: a file or setting is wrong, ``out`` holds results and ``resume`` is off, or they are of another run;
            or not one prompt could be scored, which is known when the results are written.
    """
    rows = read_prompts(run.prompts)
    known, unread = _known(run.ordinary)
    check_rate(run.false_positive_rate, len(known))
    _claim(run.out, run.asked(model, known), run.resume)
    ordinary = ordinary_of(_measured_ordinary(model, known, run), run.settings, run.false_positive_rate)
    scores = run.out / "scores.jsonl"
    done = {int(row["line"]): row for row in read_json_lines(scores)}
    with progress_bar(run.progress) as bar, append_rows(scores) as write:
        task = bar.add_task("prompts", total=len(rows), completed=len(done))
        missing = [row for row in rows if row.line not in done]
        for result in detect_rows(model, missing, run.settings, ordinary, run.false_positive_rate, run.batch):
            done[result.line] = _row_of(result, run.per_step)
            write(done[result.line])
            bar.advance(task)
    return _close(run, [done[row.line] for row in rows], ordinary, unread)


def _known(ordinary: Path | None) -> tuple[list[str], list[str]]:
    """The distinct ordinary prompts of a file, or the shipped ones; and why lines of the file cannot be used."""
    if ordinary is None:
        return ordinary_prompts(), []
    given = read_prompts(ordinary, "--ordinary")
    usable = dict.fromkeys(row.prompt for row in given if row.error is None)
    return list(usable), [row.error for row in given if row.error is not None]


def _measured_ordinary(model: GuidedModel, known: Sequence[str], run: DetectionRun) -> list[PromptMeasurement]:
    """Measurements of the ordinary prompts, each the mean of its images: of those on disk, and of the missing ones."""
    path = run.out / "reference.jsonl"
    found = {row["prompt"]: row for row in read_json_lines(path)}
    missing = [prompt for prompt in known if prompt not in found]
    with progress_bar(run.progress) as bar, append_rows(path) as write:
        task = bar.add_task("ordinary prompts", total=len(known), completed=len(known) - len(missing))
        for m in measure_prompts(model, missing, run.settings, run.batch):
            cosine = [] if m.cosine is None else [float(m.cosine.mean())]
            # JSON has no NaN: null, which numpy reads as NaN again
            row = {name: values.mean(axis=0).tolist() for name, values in m.per_step.items()}
            found[m.prompt] = {
                "per_step": {name: [_or_none(v) for v in values] for name, values in row.items()},
                "cosine": [_or_none(v) for v in cosine],
            }
            write({"prompt": m.prompt, **found[m.prompt]})
            bar.advance(task)
    measured = []
    for prompt in known:
        cosines = np.asarray(found[prompt]["cosine"], dtype=np.float64)
        values = found[prompt]["per_step"]
        # Of version 0.1: the magnitude alone.
        values = {"magnitude": values} if isinstance(values, list) else values
        per_step = {name: np.asarray([steps], dtype=np.float64) for name, steps in values.items()}
        measured.append(PromptMeasurement(prompt, per_step, cosines if len(cosines) else None, 0.0))
    return measured


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _row_of(result: Detection, per_step: bool) -> dict[str, Any]:
    row = result.as_dict()
    if not per_step:
        row["per_step"] = []
    return row


def _close(
    run: DetectionRun, rows: list[dict[str, Any]], ordinary: OrdinaryPrompts, unread: list[str]
) -> dict[str, Any]:
    """Write the table, the histogram and the summary; returns the summary."""
    out, settings, threshold = run.out, run.settings, ordinary.threshold(run.false_positive_rate)
    table = pa.Table.from_pylist([{**row, "components": list(row["components"].items())} for row in rows], SCHEMA)
    pq.write_table(table, out / "scores.parquet.new")
    os.replace(out / "scores.parquet.new", out / "scores.parquet")
    scored = [row for row in rows if row["error"] is None]
    summary = {
        "read": len(rows),
        "scored": len(scored),
        "failed": len(rows) - len(scored),
        "flagged": sum(row["flagged"] for row in scored),
        "cut": sum(bool(row["cut"]) for row in scored),
        "ordinary": len(ordinary.ordinary_scores),
        "ordinary_failed": len(unread),
        "ordinary_errors": unread[:20],
        "false_positive_rate": run.false_positive_rate,
        "threshold": threshold,
        "steps_per_prompt": float(np.mean([row["steps"] for row in scored])) if scored else None,
        "seconds_per_prompt": float(np.mean([row["seconds"] for row in scored])) if scored else None,
        "errors": [row["error"] for row in rows if row["error"] is not None][:20],
    }
    histogram(
        out / "histogram.png",
        {"ordinary prompts": ordinary.ordinary_scores, "these prompts": np.asarray([r["score"] for r in scored])},
        threshold=threshold,
        label=f"{settings.detector}{' until beyond' if settings.early_exit else ''}, "
        f"{settings.steps} of {settings.schedule_steps} steps, "
        f"{settings.images_per_prompt} image(s) per prompt",
    )
    write_json(out / "summary.json", summary)
    if not scored:
        raise ValueError(f"--prompts: none of the {len(rows)} prompts could be scored; the first: {rows[0]['error']}")
    return summary


def _claim(out: Path, asked: dict[str, Any], resume: bool) -> None:
    """Take ``out`` for this run, or go on in it."""
    file = out / "settings.json"
    if file.is_file():
        if not resume:
            raise ValueError(f"--out: '{out}' holds results already; add --resume to go on, or name another folder")
        refuse_other_settings(json.loads(file.read_text(encoding="utf-8")), asked, out)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out: '{out}' exists and is no folder of results; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, asked)


def _digest(path: Path) -> str:
    if path.is_dir():
        names = [(file.name, file.stat().st_size) for file in sorted(path.glob("*.tar"))]
        return hashlib.sha256(repr(names).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
