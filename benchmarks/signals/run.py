"""Which signal sees memorisation first: AUC by exposures and t, alone and summed, in the same domain and under a shift.

    scripts/bench signals --package iconify-json-twemoji-1.2.5.tgz

The tiny base is fine-tuned, without a filter, on OpenMoji and on Twemoji with planted levels, one pass over the data,
once a seed, with captions dropped as by default and with none dropped; then planted, ordinary and held-out pairs are
scored at a fixed grid of draws. The package is what ``npm pack @iconify-json/twemoji@1.2.5`` writes; without it the
shift is left out. Numbers go to docs/benchmarks/signals.json, and docs/benchmarks-signals.md and its plot are written
from that file. The same command goes on where it was stopped: a fine-tune from its last checkpoint, scores that are
there stay, and a finished model whose scores lack a signal is scored again.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.common import NUMBERS, PAGES, RUNS, write_numbers
from benchmarks.signals.data import build_same, build_shifted
from benchmarks.signals.page import write_page
from benchmarks.signals.scores import DRAWS, fine_tune, score
from memsieve.filtering.evidence.calibration import Calibrator
from memsieve.filtering.signals import COMBINED, SIGNALS, measured_for
from memsieve.filtering.statistics import auc as auc_of

LIMIT = 0.75
SUMS = (
    ("loss", "reference_ratio"),
    ("loss", "reference_ratio", "magnitude_ratio"),
    ("reference_ratio", "magnitude_ratio"),
    ("loss", "magnitude_ratio"),
    ("loss", "magnitude"),
    ("loss_gap", "reference_ratio"),
    ("reference_residual", "drift"),
    ("reference_residual", "anchored_magnitude"),
    ("drift", "anchored_magnitude"),
)
AGAINST_THE_BASE = (("drift",), ("anchored_magnitude",), *SUMS[-3:])
DECIDING = (("reference_ratio",), ("reference_residual",))
SETS = [
    *(((name,), 1.0) for name in (*SIGNALS, *COMBINED)),
    *((names, 1.0) for names in SUMS),
    *((names, LIMIT) for names in (*DECIDING, ("loss_gap", "reference_ratio"), *SUMS[:1], *AGAINST_THE_BASE)),
]
"""Signals that are summed, and the share of the timesteps, from 0 on, whose visits count."""
PARTS = {
    "same": ("same", 0.1),
    "shifted": ("shifted", 0.1),
    "same_all_captions": ("same", 0.0),
    "shifted_all_captions": ("shifted", 0.0),
}
"""The data and the share of captions that are dropped: the magnitude's own branch learns a pair by those."""
CALIBRATING = 95
"""Held-out pairs that calibrate; the others are compared with, beside ordinary training pairs."""
T_BINS = 4
console = Console(stderr=True, emoji=False)


def main(
    package: Annotated[Path | None, typer.Option(help="The .tgz of @iconify-json/twemoji 1.2.5.")] = None,
    work: Annotated[Path, typer.Option(help="Data, runs and scores.")] = RUNS / "signals",
    out: Annotated[Path, typer.Option(help="The JSON.")] = NUMBERS / "signals.json",
    page: Annotated[Path, typer.Option(help="The page.")] = PAGES / "benchmarks-signals.md",
    page_only: Annotated[bool, typer.Option(help="Write the page from the JSON.")] = False,
    seeds: Annotated[int, typer.Option(help="Fine-tunes of each domain; the pairs planted in each are others.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}.")] = None,
) -> None:
    """Measure what is missing, and write the page."""
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    for name in only or []:
        if name not in PARTS:
            raise typer.BadParameter(f"'{name}' is not a part; the parts are {', '.join(PARTS)}", param_hint="--only")
    for name in () if page_only else only or PARTS:
        files = [_measured(work, name, seed, package) for seed in range(seeds)]
        runs = [json.loads(file.read_text()) for file in files if file is not None]
        if runs:
            each = [tables([run])["auc"] for run in runs]
            alone = {label: [auc[label]["50"]["single"] for auc in each] for label in each[0]}
            found[name] = tables(runs) | {"by_seed": alone}
            write_numbers(out, found)
    write_page(page, found)
    console.print(f"numbers in {out}, page in {page}")


def _measured(work: Path, name: str, seed: int, package: Path | None) -> Path | None:
    """The scores of one fine-tune of a part, made where they are missing; None without the data that they need."""
    (domain, dropout), end = PARTS[name], f"-{seed}" if seed else ""
    scores, data = work / f"{name}-scores{end}.json", work / f"{domain}{end}"
    if scores.is_file() and SIGNALS.keys() <= json.loads(scores.read_text()).keys():
        return scores
    if not (data / "dataset.json").is_file():
        if domain == "same":
            build_same(data, seed)
        elif package is None:
            console.print("--package is not given: the shift is left out")
            return None
        else:
            build_shifted(data, package, seed)
    console.print(f"{name}, seed {seed}: training and scoring")
    write_numbers(scores, score(data, fine_tune(data, work / f"run-{name}{end}", seed, dropout)))
    return scores


def tables(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """AUC of each set of signals: by exposures, single visit and mean of all draws, and by exposures and part of t.

    Scores are calibrated in each run by its own held-out pairs, and then compared over all runs together.
    """
    calibrating, clean_parts, start = [], [], 0
    repeats, split, t = (np.concatenate([np.array(run[name]) for run in runs]) for name in ("repeats", "split", "t"))
    for run in runs:
        own_split, own_repeats = np.array(run["split"]), np.array(run["repeats"])
        held = np.flatnonzero(own_split == "held_out")
        calibrating.append(held[:CALIBRATING])
        ordinary = np.flatnonzero((own_split == "train") & (own_repeats == 1))
        clean_parts.append(start + np.concatenate([ordinary, held[CALIBRATING:]]))
        start += len(own_split)
    clean = np.concatenate(clean_parts)
    levels = sorted({int(r) for r in repeats if r > 1})
    found: dict[str, Any] = {"seeds": len(runs), "pairs": {str(n): int((repeats == n).sum()) for n in levels}}
    of_training = int((split[clean] == "train").sum())
    found |= {"clean_training": of_training, "clean_held_out": len(clean) - of_training, "draws": DRAWS, "auc": {},
              "by_t": {}}  # fmt: skip
    part = t * T_BINS // 1000
    for names, limit in SETS:
        scored = [_calibrated(run, names, rows) for run, rows in zip(runs, calibrating, strict=True)]
        z = np.where(t < limit * 1000, np.concatenate(scored), np.nan)
        label = " + ".join(names) + ("" if limit == 1.0 else f", t < {limit * 1000:.0f}")
        found["auc"][label], found["by_t"][label] = {}, {}
        for level in levels:
            planted = np.flatnonzero(repeats == level)
            found["auc"][label][str(level)] = {
                "single": auc(z[planted], z[clean]),
                "mean": auc(np.nanmean(z[planted], 1, keepdims=True), np.nanmean(z[clean], 1, keepdims=True)),
                "against_training_only": auc(z[planted], z[clean[split[clean] == "train"]])[0],
            }
            found["by_t"][label][str(level)] = [
                _auc(z[planted][part[planted] == b], z[clean][part[clean] == b])
                for b in range(math.ceil(limit * T_BINS))
            ]
    return found


def _calibrated(scores: dict[str, Any], names: tuple[str, ...], reference: Any) -> Any:
    """Scores of visits as the filter makes them, [pairs, draws]."""
    t = np.array(scores["t"], dtype=np.int64)
    calibrator = Calibrator(list(names), 10, 1000, 4096)
    raw = {name: torch.tensor(scores[name]) for name in measured_for(names)}
    evidence = calibrator.evidence_of({name: value.flatten() for name, value in raw.items()})
    columns = evidence.shape[1]
    calibrator.add(evidence.reshape(*t.shape, columns)[reference].reshape(-1, columns), t[reference].flatten())
    return calibrator.scores(evidence, t.flatten()).reshape(t.shape)


def _auc(planted: Any, clean: Any) -> float:
    """Share of (planted, clean) couples in which the planted one scores higher, ties half; NaN is nobody."""
    return auc_of(planted[np.isfinite(planted)], clean[np.isfinite(clean)])


def auc(planted: Any, clean: Any, resamples: int = 400) -> list[float]:
    """AUC over visits [pairs, draws] with the 95 % interval of a bootstrap over pairs of both kinds."""
    rng = np.random.default_rng(0)
    drawn = [
        _auc(planted[rng.integers(0, len(planted), len(planted))], clean[rng.integers(0, len(clean), len(clean))])
        for _ in range(resamples)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return [round(v, 4) for v in (_auc(planted, clean), float(low), float(high))]


if __name__ == "__main__":
    typer.run(main)
