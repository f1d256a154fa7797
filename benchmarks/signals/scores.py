"""One fine-tune on planted levels without a filter, one pass over the data; then every signal of planted, ordinary and
held-out pairs on a fixed grid of draws."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.common import CONFIGS, MODEL
from memsieve.filtering.data.draws import visit_draw
from memsieve.filtering.data.rows import Row
from memsieve.filtering.denoisers.conditioning import Conditioning
from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.filtering.settings import load_settings
from memsieve.filtering.signals import SIGNALS, Predictions, measure
from memsieve.inference.copies.probe import shard_images
from memsieve.train.batch import Batch, build_batch
from memsieve.train.config import RunConfig
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up
from memsieve.train.visits import draw_visits, plain_samples

__all__ = ["DRAWS", "fine_tune", "score"]

DRAWS, BATCH = 12, 48
ORDINARY, HELD_OUT = 160, 190
OFF = ["filter.enabled=false", "validation.every=0", "validation.held_out_pairs=0", "checkpoint.every=100"]


def fine_tune(data: Path, run: Path, seed: int = 0, caption_dropout: float = 0.1, base: Path | None = None) -> Path:
    """The pipeline after one pass over the data, from ``base`` (``MODEL``); resumed where it was stopped."""
    rows = json.loads((data / "dataset.json").read_text())["train_rows"]
    if not (run / "pipeline").is_dir():
        settings = [f"output={run}", f"model.path={base or MODEL}", f"data.path={data / 'train'}",
                    f"data.held_out_path={data / 'held_out'}", f"train.steps={rows // 16}", f"train.seed={seed}",
                    f"train.caption_dropout={caption_dropout}",
                    *OFF]  # fmt: skip
        fit(set_up(load_settings(RunConfig, CONFIGS / "openmoji.yaml", settings)))
    return run / "pipeline"


def score(data: Path, pipeline: Path, base: Path | None = None) -> dict[str, Any]:
    """Every signal at ``DRAWS`` draws, t stratified: {"repeats": [P], "split": [P], "t": [P, D], signal: [P, D]}."""
    pairs = _pairs(data)
    now, before = open_denoiser(str(pipeline)), open_denoiser(str(base or MODEL))
    for denoiser in (now, before):
        denoiser.model.requires_grad_(False).eval()
    draw = partial(visit_draw, 0, shape=now.latent_shape(32), num_train_timesteps=now.num_train_timesteps, strata=DRAWS)
    settings = DrawSettings(seed=0, resolution=32)
    jobs = [(row, k) for row, _ in pairs for k in range(DRAWS)]
    found: dict[str, list[float]] = {name: [] for name in [*SIGNALS, "t"]}
    for start in range(0, len(jobs), BATCH):
        part = jobs[start : start + BATCH]
        draws = [(k, draw(row.group, k)) for row, k in part]
        samples = plain_samples([row for row, _ in part], settings)
        batch = build_batch(now, draw_visits(now, samples, settings, draws))
        values = measure(SIGNALS, _predictions(now, before, batch))
        for name, value in values.items():
            found[name] += value.tolist()
        found["t"] += batch.timesteps.tolist()
    shaped = {name: np.array(values).reshape(len(pairs), DRAWS).round(6).tolist() for name, values in found.items()}
    return {"repeats": [r["repeats"] for _, r in pairs], "split": [r["split"] for _, r in pairs], **shaped}


def _predictions(now: Any, before: Any, batch: Batch) -> Predictions:
    def epsilon(denoiser: Any, states: Conditioning) -> torch.Tensor:
        with torch.no_grad():
            output = denoiser.predict(denoiser.model, batch.noisy, batch.timesteps, states)
        found: torch.Tensor = denoiser.to_epsilon(output, batch.noisy, batch.timesteps)
        return found

    empty = now.unconditional(len(batch.visits))
    return Predictions(
        noise=batch.noise,
        cond=epsilon(now, batch.conditioning),
        uncond=epsilon(now, empty),
        ref_cond=epsilon(before, batch.conditioning),
        ref_uncond=epsilon(before, empty),
    )


def _pairs(data: Path) -> list[tuple[Row, dict[str, Any]]]:
    """All planted pairs, and ordinary and held-out ones drawn by a fixed seed."""
    rows = pq.read_table(data / "truth.parquet").to_pylist()
    first = {row["group"]: row for row in reversed(rows)}
    planted = [row for row in first.values() if row["repeats"] > 1]
    rng = np.random.default_rng(0)
    chosen = sorted(planted, key=lambda row: (row["repeats"], row["group"]))
    for split, count in (("train", ORDINARY), ("held_out", HELD_OUT)):
        some = sorted((r for r in first.values() if r["split"] == split and r["repeats"] == 1), key=lambda r: r["key"])
        chosen += [some[i] for i in rng.permutation(len(some))[:count]]
    pixels = dict(shard_images(data / "train")) | dict(shard_images(data / "held_out"))
    return [
        (Row(r["key"], "", 0, r["group"], r["caption"], pixels[r["key"]], 0, 0, i), r) for i, r in enumerate(chosen)
    ]
