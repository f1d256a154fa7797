"""Measure ways to minimise: how many copies go, and how much of the prompt stays.

    scripts/bench minimize --model runs/demo/unfiltered/pipeline --data runs/demo/data --name chosen-on

Numbers go to docs/benchmarks/minimize-NAME.json, setting by setting; the same command goes on with what is missing.
Choose on one model and report another whose planted pairs are others.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import torch
import typer

from benchmarks.common import MODEL, NUMBERS, write_numbers
from benchmarks.detection.alignment import Alignment
from benchmarks.detection.data import Bench
from memsieve.inference.copies.probe import shard_images
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.generate import GenerateSettings, generate
from memsieve.inference.minimize.draw import draw_from
from memsieve.inference.minimize.minimize import minimize, ordinary_target
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.opened import open_model
from memsieve.inference.weights import weights_identity

_CLOSEST = {"method": "closest", "iterations": 30, "lr": 0.1}
WAYS: dict[str, dict[str, Any]] = {
    "adamw, median": {"method": "adamw", "quantile": 0.5, "iterations": 10, "lr": 0.05},
    "adamw, 0.3": {"method": "adamw", "quantile": 0.3, "iterations": 50, "lr": 0.05},
    "adamw, 0.2": {"method": "adamw", "quantile": 0.2, "iterations": 50, "lr": 0.05},
    **{
        f"closest{where and ', '}{where}, {'median' if quantile == 0.5 else quantile}": {
            **_CLOSEST, "quantile": quantile, **({"tokens": where} if where else {})
        }
        for where in ("", "padding", "words")
        for quantile in ((0.5, 0.3, 0.2) if where != "words" else (0.5, 0.3))
    },
}  # fmt: skip


def main(
    model: Annotated[Path, typer.Option(help="A pipeline trained on --data without a filter.")],
    data: Annotated[Path, typer.Option(help="A dataset folder with planted pairs and a held-out split.")],
    name: Annotated[str, typer.Option(help="Of the model, in the file's name.")],
    out: Annotated[Path, typer.Option(help="Folder of the JSON.")] = NUMBERS,
    base: Annotated[Path, typer.Option(help="The model before fine-tuning.")] = MODEL,
    images: Annotated[int, typer.Option(help="Per prompt.")] = 8,
    steps: Annotated[int, typer.Option(help="Of the schedule.")] = 50,
    repeats: Annotated[int, typer.Option(help="Of planted pairs, those that stand in the data so often or more.")] = 2,
) -> None:
    """Measure what is missing and write the JSON."""
    torch.set_num_threads(1)
    bench = Bench(model, data, 120)
    bench.planted = [p for p in bench.planted if p.repeats >= repeats]
    settings = replace(DetectSettings(), schedule_steps=steps, guidance_scale=3.0)
    asked = {
        "model": weights_identity(bench.opened.model),
        "settings": asdict(settings),
        "images": images,
        "repeats": repeats,
    }
    file = out / f"minimize-{name}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if found.get("asked") != asked:
        found = {"asked": asked, "prompts": [p.caption for p in bench.planted], "ways": {}}
    found["plant"] = json.loads((data / "dataset.json").read_text())["plant"]
    rows = {row["key"]: row for row in pq.read_table(data / "truth.parquet").to_pylist()}
    aligned, found["encoder"] = alignment_of(bench, data, rows)
    study = Study(bench, aligned, settings, found["prompts"], images)
    for control, draw in study.controls(base).items():
        if control not in found["ways"]:
            found["ways"][control] = study.measured(draw())
            write_numbers(file, found)
    for way, how in WAYS.items():
        if way not in found["ways"]:
            found["ways"][way] = study.minimised(how)
            write_numbers(file, found)
    typer.echo(f"numbers in {file}")


@dataclass(frozen=True, slots=True)
class Study:
    """Planted prompts drawn by controls and minimised, ``images`` a prompt; what of them copies, and what fits."""

    bench: Bench
    aligned: Alignment
    settings: DetectSettings
    captions: list[str]
    images: int

    def controls(self, base: Path) -> dict[str, Callable[[], torch.Tensor]]:
        """Pictures of the prompts as they were, of none, and of the model ``base`` before its fine-tune."""
        drawing = GenerateSettings(steps=self.settings.schedule_steps, guidance_scale=3.0, batch=32)
        pipe, empty = self.bench.opened.pipe, [""] * len(self.captions)
        return {
            "as it was": lambda: generate(pipe, self.captions, self.images, drawing),
            "empty prompt": lambda: generate(pipe, empty, self.images, drawing),
            "before fine-tuning": lambda: generate(open_model(base).pipe, self.captions, self.images, drawing),
        }

    def minimised(self, how: dict[str, Any]) -> dict[str, Any]:
        """One of ``WAYS``: how far it came, how far it moved the prompts, and its pictures measured."""
        opened, settings = self.bench.opened, self.settings
        target = ordinary_target(opened, self.bench.captions["held_out"], settings, how["quantile"])
        wanted = MinimizeSettings(**{key: value for key, value in how.items() if key != "quantile"})
        results = [
            minimize(opened, c, target, images=self.images, batch=self.images, settings=settings, how=wanted)
            for c in self.captions
        ]
        pictures = torch.cat([draw_from(opened, r, r.cond, settings) for r in results])
        own = opened.encode(self.captions).encoder_hidden_states
        apart = [
            float(((r.prompt_embeds - e).flatten(1).norm(dim=1) / e.norm()).mean())
            for r, e in zip(results, own, strict=True)
        ]
        return {**how, "target": target, "met": [float(np.mean(r.met)) for r in results],
                "updates": [len(r.trace) - 1 for r in results], "change": apart,
                **self.measured(pictures)}  # fmt: skip

    def measured(self, pictures: torch.Tensor) -> dict[str, Any]:
        """Of pictures [prompts x images, 3, H, W]: by prompt the share that copies and the share that fits."""
        groups = [p.group for p in self.bench.planted for _ in range(self.images)]
        copied = np.asarray([v.is_copy for v in self.bench.judge.judge(pictures, groups)])
        fits = self.aligned(pictures, [c for c in self.captions for _ in range(self.images)])
        return {"copies": copied.reshape(-1, self.images).mean(1).tolist(),
                "alignment": fits.reshape(-1, self.images).mean(1).tolist()}  # fmt: skip


def alignment_of(bench: Bench, data: Path, rows: dict[str, Any]) -> tuple[Alignment, dict[str, Any]]:
    """The encoder, fitted on training images of which none is planted, once each; and how much it can see."""
    pixels, held = dict(shard_images(data / "train")), shard_images(data / "held_out")
    planted = {row["group"] for row in rows.values() if row["repeats"] > 1}
    once = {rows[key]["group"]: key for key in pixels if rows[key]["group"] not in planted}
    keys, strangers = list(once.values()), sorted({rows[key]["caption"] for key, _ in held})
    aligned = Alignment(torch.stack([pixels[k] for k in keys]), [rows[k]["caption"] for k in keys], strangers)
    seen = aligned(torch.stack([image for _, image in held]), [rows[key]["caption"] for key, _ in held])
    own = aligned(torch.stack([pixels[p.key] for p in bench.planted]), [p.caption for p in bench.planted])
    return aligned, {"pairs": len(keys), "held_out_8_way": float(seen.mean()), "planted_8_way": float(own.mean())}


if __name__ == "__main__":
    typer.run(main)
