"""Measure detection and minimisation on a model with planted pairs, and write the numbers and a page.

    scripts/bench detect --model runs/demo/unfiltered/pipeline --data runs/demo/data

Numbers go to docs/benchmarks/detect.json, part by part; run again, it goes on with the parts that are missing. The page
docs/benchmarks-detection.md is written from that file. About 15 minutes on one CPU core.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import torch
import typer

from benchmarks.common import NUMBERS, PAGES, write_numbers
from benchmarks.detection.data import Bench
from benchmarks.detection.encoder import choices, train_encoder
from benchmarks.detection.page import write_page
from memsieve.inference.copies.probe import shard_images
from memsieve.inference.copies.rate import copy_rate
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.detect.evaluate import EvaluationSettings, evaluate_detector, seconds_to_generate
from memsieve.inference.generate import GenerateSettings, generate
from memsieve.inference.minimize.draw import draw_from
from memsieve.inference.minimize.minimize import minimize, ordinary_target
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.weights import weights_identity

SETTINGS = DetectSettings(schedule_steps=50, guidance_scale=3.0)
STEPS: dict[str, dict[str, tuple[int, ...]]] = {
    "magnitude": {"held_out": (1, 10, 50), "train": (1,)},
    "magnitude_cosine": {"held_out": (1,), "train": (1,)},
}
"""By detector and kind of ordinary captions; the cosine is taken at one timestep whatever the steps."""
IMAGES = 8
MINIMISATIONS: dict[str, dict[str, Any]] = {
    "as it was": {"quantile": 0.5, "iterations": 0, "lr": 0.05},
    "the paper's way": {"quantile": 0.5, "iterations": 10, "lr": 0.05},
    "lower target": {"quantile": 0.2, "iterations": 50, "lr": 0.05},
    "lower target, larger steps": {"quantile": 0.05, "iterations": 50, "lr": 0.2},
}


def main(
    model: Annotated[Path, typer.Option(help="A pipeline trained on --data without a filter.")],
    data: Annotated[Path, typer.Option(help="A dataset folder with planted pairs and a held-out split.")],
    out: Annotated[Path, typer.Option(help="The JSON.")] = NUMBERS / "detect.json",
    page: Annotated[Path, typer.Option(help="The page made of it.")] = PAGES / "benchmarks-detection.md",
    ordinary: Annotated[int, typer.Option(help="Ordinary captions of each kind.")] = 120,
) -> None:
    """Measure what is missing in --out, and write the page."""
    torch.set_num_threads(1)
    bench = Bench(model, data, ordinary)
    asked = {
        "model": weights_identity(bench.opened.model),
        "data": json.loads((data / "dataset.json").read_text())["plant"],
    }
    found: dict[str, Any] = json.loads(out.read_text()) if out.is_file() else {}
    if found and any(found["asked"][name] != asked[name] for name in asked):
        raise ValueError(f"--out: '{out}' holds numbers of another model or dataset; name another file or remove it")
    found["asked"] = {**asked, "guidance_scale": SETTINGS.guidance_scale}
    cut = cache(lambda: Minimisation(bench))

    def minimised(how: dict[str, Any]) -> dict[str, Any]:
        return cut().one(**how)

    parts: dict[str, Callable[[], Any]] = {
        "copies": lambda: copies(bench),
        "seconds_per_generation": lambda: seconds_to_generate(bench.opened, bench.captions["train"][:16], SETTINGS),
        "encoder": lambda: cut().know(),
        **{name: partial(minimised, how) for name, how in MINIMISATIONS.items()},
        "empty prompt": lambda: cut().empty(),
        **{f"{d}, {s}": partial(detection, bench, d, s) for d in STEPS for s in ("held_out", "train")},
    }
    for name, measure in parts.items():
        if name not in found:
            typer.echo(f"measuring: {name}", err=True)
            found[name] = measure()
            write_numbers(out, found)
    write_page(page, found)
    typer.echo(f"numbers in {out}, page in {page}")


def copies(bench: Bench) -> dict[str, Any]:
    """How often the planted captions come back, by caption."""
    captions = [p.caption for p in bench.planted]
    images = generate(
        bench.opened.pipe, captions, IMAGES,
        GenerateSettings(steps=SETTINGS.schedule_steps, guidance_scale=SETTINGS.guidance_scale, batch=32),
    )  # fmt: skip
    verdicts = bench.judge.judge(images, [p.group for p in bench.planted for _ in range(IMAGES)])
    each = np.asarray([v.is_copy for v in verdicts]).reshape(-1, IMAGES).mean(1)
    return {
        "pairs": {
            p.caption: {"repeats": p.repeats, "rate": float(r)} for p, r in zip(bench.planted, each, strict=True)
        },
        "rate": asdict(copy_rate(verdicts)),
    }


def detection(bench: Bench, detector: str, split: str) -> list[dict[str, Any]]:
    """Planted against ordinary captions, 1 and 4 images; groups are base emoji."""
    memorised, ordinary = [p.caption for p in bench.planted], bench.captions[split]
    results = evaluate_detector(
        bench.opened, memorised, ordinary,
        EvaluationSettings(
            detect=replace(SETTINGS, detector=detector), steps=STEPS[detector][split], images=(1, 4), batch=32
        ),
        groups=([bench.base[c] for c in memorised], [bench.base[c] for c in ordinary]),
    )  # fmt: skip
    return [asdict(result) for result in results]


class Minimisation:
    """Copies and prompt alignment of planted prompts, as they are and minimised, from the same noise."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.captions = [p.caption for p in bench.planted]
        self.pixels = dict(shard_images(bench.data / "train"))
        self.rows = {row["key"]: row for row in pq.read_table(bench.data / "truth.parquet").to_pylist()}
        others = [key for key in self.pixels if self.rows[key]["repeats"] <= 1]
        images, captions = torch.stack([self.pixels[k] for k in others]), [self.rows[k]["caption"] for k in others]
        self.pairs, self.encoder = len(others), train_encoder(images, captions)

    def know(self) -> dict[str, Any]:
        """What the measure of alignment can see at all."""
        held = shard_images(self.bench.data / "held_out")
        own = torch.stack([self.pixels[p.key] for p in self.bench.planted])
        return {
            "pairs": self.pairs,
            "held_out_8_way": _held_out_accuracy(self.encoder, held, self.rows),
            "training_images_of_planted": self._right(own),
        }

    def empty(self) -> dict[str, Any]:
        """The empty prompt, as many images."""
        images = generate(
            self.bench.opened.pipe, [""] * len(self.captions), IMAGES,
            GenerateSettings(steps=SETTINGS.schedule_steps, guidance_scale=SETTINGS.guidance_scale, batch=32),
        )  # fmt: skip
        return self._measured(images)

    def one(self, quantile: float, iterations: int, lr: float) -> dict[str, Any]:
        """Minimised so; with 0 iterations the prompts as they are."""
        opened = self.bench.opened
        target = ordinary_target(opened, self.bench.captions["held_out"], SETTINGS, quantile)
        how = MinimizeSettings(method="adamw", iterations=iterations, lr=lr)
        options: dict[str, Any] = {"how": how, "settings": SETTINGS}
        results = [minimize(opened, c, target, images=IMAGES, batch=IMAGES, **options) for c in self.captions]
        images = torch.cat([draw_from(opened, r, r.cond, SETTINGS) for r in results])
        alone, together = (minimize(opened, self.captions[0], target, images=n, **options) for n in (1, 4))
        return {
            "quantile": quantile, "iterations": iterations, "lr": lr, "target": target,
            "met": [float(np.mean(r.met)) for r in results], "updates": [len(r.trace) - 1 for r in results],
            "magnitude": [float(np.mean(r.value)) for r in results],
            "largest_difference_1_or_4_images": float((alone.prompt_embeds[0] - together.prompt_embeds[0]).abs().max()),
            **self._measured(images),
        }  # fmt: skip

    def _measured(self, images: torch.Tensor) -> dict[str, Any]:
        groups = [p.group for p in self.bench.planted for _ in range(IMAGES)]
        copied = np.asarray([v.is_copy for v in self.bench.judge.judge(images, groups)])
        return {"alignment": self._right(images), "copies": copied.reshape(-1, IMAGES).mean(1).tolist()}

    def _right(self, images: torch.Tensor) -> list[float]:
        """Share of each prompt's images that fit their own caption best, of all planted captions."""
        count = len(self.captions)
        truth = torch.arange(count).repeat_interleave(len(images) // count)
        fits = choices(self.encoder, images, self.captions) == truth
        return list(fits.float().reshape(count, -1).mean(1).tolist())


def _held_out_accuracy(encoder: Any, held: list[tuple[str, torch.Tensor]], rows: dict[str, Any]) -> float:
    """Own caption against those of 7 other held-out base emoji: what the measure can see at all."""
    rng, hits = np.random.default_rng(0), []
    for key, image in held:
        base = rows[key]["base"]
        strangers = [rows[k]["caption"] for k, _ in held if rows[k]["base"] != base]
        chosen = [strangers[i] for i in rng.choice(len(strangers), 7, replace=False)]
        hits.append(int(choices(encoder, image[None], [rows[key]["caption"], *chosen])[0]) == 0)
    return float(np.mean(hits))


if __name__ == "__main__":
    typer.run(main)
