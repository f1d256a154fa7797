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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from memsieve.filtering.files import read_json_lines, write_json
from memsieve.inference.charts import histogram
from memsieve.inference.detect.detect import Detection, check_rate, detect_rows, progress_bar, reference_of
from memsieve.inference.detect.detectors import DetectSettings, Measurement, measure_prompts
from memsieve.inference.detect.ordinary import Reference
from memsieve.inference.guided import GuidedModel
from memsieve.inference.prompts.lists import ordinary_prompts, read_prompts

__all__ = ["append_rows", "detect_file", "model_identity", "read_json_lines", "weights_identity"]

SCHEMA = pa.schema(
    [
        ("line", pa.int64()), ("prompt", pa.string()), ("score", pa.float64()), ("p", pa.float64()),
        ("flagged", pa.bool_()), ("components", pa.map_(pa.string(), pa.float64())),
        ("steps", pa.int64()), ("per_step", pa.list_(pa.float64())), ("seconds", pa.float64()),
        ("cut", pa.string()), ("error", pa.string()),
    ]
)  # fmt: skip


def detect_file(
    model: GuidedModel,
    prompts: Path,
    out: Path,
    *,
    settings: DetectSettings,
    ordinary: Path | None = None,
    false_positive_rate: float = 0.01,
    batch: int = 16,
    resume: bool = False,
    per_step: bool = True,
    progress: bool = True,
) -> dict[str, Any]:
    """Judge every line of ``prompts`` and write the results under ``out``; returns the summary.

    In the summary read = scored + failed. Stopped at any moment, the same call with ``resume`` measures only what is
    missing.

    Raises:
        ValueError: a file or setting is wrong, ``out`` holds results and ``resume`` is off, or they are of another run;
            or not one prompt could be scored, which is known when the results are written.
    """
    rows = read_prompts(prompts)
    known, unread = _known(ordinary)
    check_rate(false_positive_rate, len(known))
    asked = {
        "settings": asdict(settings),
        "scheduler": model.scheduler_name,
        "false_positive_rate": false_positive_rate,
        "per_step": per_step,
        "prompts": _digest(prompts),
        "ordinary": hashlib.sha256("\n".join(known).encode()).hexdigest(),
        "model": model_identity(model),
    }
    _claim(out, asked, resume)
    measured = _ordinary(model, known, settings, batch, out / "reference.jsonl", progress)
    reference = reference_of(measured, settings, false_positive_rate)
    done = {int(row["line"]): row for row in read_json_lines(out / "scores.jsonl")}
    with progress_bar(progress) as bar, append_rows(out / "scores.jsonl") as write:
        task = bar.add_task("prompts", total=len(rows), completed=len(done))
        missing = [row for row in rows if row.line not in done]
        for result in detect_rows(model, missing, settings, reference, false_positive_rate, batch):
            done[result.line] = _row_of(result, per_step)
            write(done[result.line])
            bar.advance(task)
    return _close(out, [done[row.line] for row in rows], reference, false_positive_rate, settings, unread)


def _known(ordinary: Path | None) -> tuple[list[str], list[str]]:
    """The distinct ordinary prompts of a file, or the shipped ones; and why lines of the file cannot be used."""
    if ordinary is None:
        return ordinary_prompts(), []
    given = read_prompts(ordinary, "--ordinary")
    usable = dict.fromkeys(row.prompt for row in given if row.error is None)
    return list(usable), [row.error for row in given if row.error is not None]


def _ordinary(
    model: GuidedModel, known: Sequence[str], settings: DetectSettings, batch: int, path: Path, progress: bool
) -> list[Measurement]:
    """Measurements of the ordinary prompts, each the mean of its images: of those on disk, and of the missing ones."""
    found = {row["prompt"]: row for row in read_json_lines(path)}
    missing = [prompt for prompt in known if prompt not in found]
    with progress_bar(progress) as bar, append_rows(path) as write:
        task = bar.add_task("ordinary prompts", total=len(known), completed=len(known) - len(missing))
        for m in measure_prompts(model, missing, settings, batch):
            cosine = [] if m.cosine is None else [float(m.cosine.mean())]
            # JSON has no NaN: null, which numpy reads as NaN again
            row = {"per_step": m.magnitudes.mean(axis=0).tolist(), "cosine": cosine}
            found[m.prompt] = {name: [v if math.isfinite(v) else None for v in row[name]] for name in row}
            write({"prompt": m.prompt, **found[m.prompt]})
            bar.advance(task)
    measured = []
    for prompt in known:
        per_step, cosines = (np.asarray(found[prompt][name], dtype=np.float64) for name in ("per_step", "cosine"))
        measured.append(Measurement(prompt, per_step[None], cosines if len(cosines) else None, 0.0))
    return measured


def _row_of(result: Detection, per_step: bool) -> dict[str, Any]:
    row = result.as_dict()
    if not per_step:
        row["per_step"] = []
    return row


def _close(
    out: Path, rows: list[dict[str, Any]], reference: Reference, rate: float, settings: DetectSettings,
    unread: list[str],
) -> dict[str, Any]:  # fmt: skip
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
        "ordinary": len(reference.ordinary_scores),
        "ordinary_failed": len(unread),
        "ordinary_errors": unread[:20],
        "false_positive_rate": rate,
        "threshold": reference.threshold(rate),
        "steps_per_prompt": float(np.mean([row["steps"] for row in scored])) if scored else None,
        "seconds_per_prompt": float(np.mean([row["seconds"] for row in scored])) if scored else None,
        "errors": [row["error"] for row in rows if row["error"] is not None][:20],
    }
    histogram(
        out / "histogram.png",
        {"ordinary prompts": reference.ordinary_scores, "these prompts": np.asarray([r["score"] for r in scored])},
        threshold=reference.threshold(rate),
        label=f"{settings.detector}{' until beyond' if settings.early_exit else ''}, "
        f"{settings.steps} of {settings.schedule_steps} steps, "
        f"{settings.images_per_prompt} image(s) per prompt",
    )
    write_json(out / "summary.json", summary)
    if not scored:
        raise ValueError(f"--prompts: none of the {len(rows)} prompts could be scored; the first: {rows[0]['error']}")
    return summary


def model_identity(model: GuidedModel) -> str:
    """A digest of the network's weights, so that results of one model are never resumed with another."""
    return weights_identity(model.model)


def weights_identity(network: torch.nn.Module) -> str:
    """The same of any network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        # two sums instead of all bytes: seconds for billions of parameters, and any training step changes them
        flat = tensor.detach().double().flatten()
        digest.update(f"{float(flat.sum())!r} {float(flat.square().sum())!r}".encode())
    return digest.hexdigest()


def _claim(out: Path, asked: dict[str, Any], resume: bool) -> None:
    """Take ``out`` for this run, or go on in it."""
    file = out / "settings.json"
    if file.is_file():
        if not resume:
            raise ValueError(f"--out: '{out}' holds results already; add --resume to go on, or name another folder")
        before = json.loads(file.read_text(encoding="utf-8"))
        differing = [name for name in asked if before.get(name) != json.loads(json.dumps(asked[name]))]
        if differing:
            raise ValueError(
                f"--resume: '{out}' was begun with another {', '.join(differing)}; ask the same, or name another --out"
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out: '{out}' exists and is no folder of results; name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, asked)


@contextmanager
def append_rows(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that appends one row as a line and flushes it."""
    with path.open("a", encoding="utf-8") as stream:

        def write(row: dict[str, Any]) -> None:
            stream.write(json.dumps(row, allow_nan=False) + "\n")
            stream.flush()

        yield write


def _digest(path: Path) -> str:
    if path.is_dir():
        names = [(file.name, file.stat().st_size) for file in sorted(path.glob("*.tar"))]
        return hashlib.sha256(repr(names).encode()).hexdigest()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
