"""Which signal sees memorisation first: AUC by exposures and t, alone and summed, in the same domain and under a shift.

    scripts/bench signals --package iconify-json-twemoji-1.2.5.tgz

The tiny base is fine-tuned, without a filter, on OpenMoji and on Twemoji with planted levels, one pass over the data;
then planted, ordinary and held-out pairs are scored at a fixed grid of draws. The package is what
``npm pack @iconify-json/twemoji@1.2.5`` writes; without it the shift is left out. Numbers go to
docs/benchmarks/signals.json, and docs/benchmarks-signals.md and its plot are written from that file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from signals_data import build_same, build_shifted
from signals_page import write_page
from signals_run import DRAWS, fine_tune, score

from filtering.calibration import Calibrator
from filtering.signals import SIGNALS

ROOT = Path(__file__).resolve().parent.parent
SUMS = (
    ("loss", "reference_ratio"),
    ("loss", "reference_ratio", "magnitude_ratio"),
    ("reference_ratio", "magnitude_ratio"),
    ("loss", "magnitude_ratio"),
    ("loss", "magnitude"),
    ("loss_gap", "reference_ratio"),
)
SETS = [*((name,) for name in SIGNALS), *SUMS]
CALIBRATING = 95
"""Held-out pairs that calibrate; the others are compared with, beside ordinary training pairs."""
T_BINS = 4
console = Console(stderr=True, emoji=False)


def main(
    package: Annotated[Path | None, typer.Option(help="The .tgz of @iconify-json/twemoji 1.2.5.")] = None,
    work: Annotated[Path, typer.Option(help="Data, runs and scores.")] = ROOT / "runs" / "signals",
    out: Annotated[Path, typer.Option(help="The JSON.")] = ROOT / "docs" / "benchmarks" / "signals.json",
    page: Annotated[Path, typer.Option(help="The page.")] = ROOT / "docs" / "benchmarks-signals.md",
    page_only: Annotated[bool, typer.Option(help="Write the page from the JSON.")] = False,
) -> None:
    """Measure what is missing, and write the page."""
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    for domain in () if page_only else ("same", "shifted"):
        scores = work / f"{domain}-scores.json"
        if not scores.is_file():
            data = work / domain
            if not (data / "dataset.json").is_file():
                if domain == "same":
                    build_same(data)
                elif package is None:
                    console.print("--package is not given: the shift is left out")
                    continue
                else:
                    build_shifted(data, package)
            console.print(f"{domain}: training and scoring")
            _write(scores, score(data, fine_tune(data, work / f"run-{domain}")))
        found[domain] = tables(json.loads(scores.read_text()))
        _write(out, found)
    write_page(page, found)
    console.print(f"numbers in {out}, page in {page}")


def tables(scores: dict[str, Any]) -> dict[str, Any]:
    """AUC of each set of signals: by exposures, single visit and mean of all draws, and by exposures and part of t."""
    repeats, split = np.array(scores["repeats"]), np.array(scores["split"])
    held = np.flatnonzero(split == "held_out")
    clean = np.concatenate([np.flatnonzero((split == "train") & (repeats == 1)), held[CALIBRATING:]])
    t = np.array(scores["t"], dtype=np.int64)
    levels = sorted({int(r) for r in repeats if r > 1})
    found: dict[str, Any] = {"pairs": {str(level): int((repeats == level).sum()) for level in levels}}
    found |= {"clean_training": int(((split == "train") & (repeats == 1)).sum()),
              "clean_held_out": len(held[CALIBRATING:]), "draws": DRAWS, "auc": {}, "by_t": {}}  # fmt: skip
    for names in SETS:
        z = _calibrated(scores, names, held[:CALIBRATING], t)
        label = " + ".join(names)
        found["auc"][label], found["by_t"][label] = {}, {}
        for level in levels:
            planted = np.flatnonzero(repeats == level)
            found["auc"][label][str(level)] = {
                "single": auc(z[planted], z[clean]),
                "mean": auc(z[planted].mean(1, keepdims=True), z[clean].mean(1, keepdims=True)),
                "against_training_only": auc(z[planted], z[clean[split[clean] == "train"]])[0],
            }
            part = t * T_BINS // 1000
            found["by_t"][label][str(level)] = [
                _auc(z[planted][part[planted] == b], z[clean][part[clean] == b]) for b in range(T_BINS)
            ]
    return found


def _calibrated(scores: dict[str, Any], names: tuple[str, ...], reference: Any, t: Any) -> Any:
    """Sums of z-scores as the filter makes them, [pairs, draws]."""
    calibrator = Calibrator(list(names), 10, 1000, 4096)
    raw = {name: torch.tensor(scores[name]) for name in names}
    evidence = calibrator.evidence_of({name: value.flatten() for name, value in raw.items()})
    shaped = evidence.reshape(*t.shape, len(names))
    calibrator.add(shaped[reference].reshape(-1, len(names)), t[reference].flatten())
    return calibrator.scores(evidence, t.flatten()).reshape(t.shape)


def _auc(planted: Any, clean: Any) -> float:
    """Share of (planted, clean) couples in which the planted one scores higher, ties half."""
    ordered = np.sort(clean.ravel())
    low, high = (np.searchsorted(ordered, planted.ravel(), side=side) for side in ("left", "right"))
    return float((low + high).mean() / (2 * len(ordered)))


def auc(planted: Any, clean: Any, resamples: int = 400) -> list[float]:
    """AUC over visits [pairs, draws] with the 95 % interval of a bootstrap over pairs of both kinds."""
    rng = np.random.default_rng(0)
    drawn = [
        _auc(planted[rng.integers(0, len(planted), len(planted))], clean[rng.integers(0, len(clean), len(clean))])
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return [round(v, 4) for v in (_auc(planted, clean), float(low), float(high))]


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    typer.run(main)
