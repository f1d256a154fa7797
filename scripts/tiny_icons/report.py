"""What is measured of the base, and its model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from benchmarks.retrieval.choice import CANDIDATES
from benchmarks.retrieval.encoder import Encoder
from memsieve.filtering.data.decode import to_picture
from scripts.base_model.report import Pair, caption_losses, draw_grid
from scripts.tiny_icons.judge import retrieved
from scripts.tiny_icons.pictures import SIZE, Pictures, Shown
from scripts.tiny_icons.sets import BASE, JUDGE

__all__ = ["draw_captions", "measure", "model_card", "sample_grid"]

STEPS, GUIDANCE = 25, 4.0
DRAWS: Final = 16
"""Of (t, noise), for each caption of the caption test."""
MOST: Final = 400
"""Pictures that are drawn, and that the caption test takes: intervals of about 5 points."""


CARD: Final = """---
license: cc-by-4.0
pipeline_tag: text-to-image
library_name: diffusers
---
# tiny-icons: a Stable-Diffusion-shaped pipeline of icons, none of them OpenMoji's

A real `diffusers.StableDiffusionPipeline` (CLIP tokenizer and text encoder, KL autoencoder, UNet with cross attention,
noise prediction, DDIM) small enough for a CPU: {report[megabytes]:.1f} MB, images 64x64, latents 4x16x16.
memsieve's benchmark fine-tunes it on OpenMoji, a style that it has never seen (`../tiny-icons-samples.png`). It is good
for nothing else.

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("assets/tiny-icons", local_files_only=True)
pipeline("grinning face, yellow, twemoji style", num_inference_steps=25, guidance_scale=4.0).images[0]
```

## Data
{report[train]} drawings of six icon sets, as Iconify packs them for npm, without variants of skin tone. Captions: the
name, the main colours and the set ("red apple, red and green, noto style").

| set | version | by | licence | source |
|---|---|---|---|---|
{sets}

A third of the things, chosen by a hash of their names alone, are held out in all sets ({report[held_out]} pictures);
{report[drawable]} of these pictures show things whose words occur in other names that were trained on.

## Rebuild
```
python -m scripts.tiny_icons.build --out assets/tiny-icons
```
It goes on where it was stopped. Minutes on {report[threads]} CPU threads: {minutes}.

## Measured
*The judge*: three small image-text encoders, trained on other sets ({judges}) and only on things that this base is not
trained on, chooses the caption of a picture among {candidates} of held-out things. "Names": without the colours.

| pictures of held-out things | right caption | right name | asked |
|---|---|---|---|
{table}

*The caption test*: of held-out pictures, mean of 16 draws of (t, noise), t from 100 to 850: the own caption gives a
lower denoising loss than that of another picture of the same set for {report[caption_test]:.1%}, and for
{report[caption_test_drawable]:.1%} of those whose words were read.

## Licence
These weights are given under [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/), with the attributions above.
"""


@torch.no_grad()
def draw_captions(pipeline: Any, captions: Sequence[str], seed: int = 0, batch: int = 32) -> Tensor:
    """What a pipeline draws, [N, 3, H, W] in [-1, 1], from a noise for each number."""
    drawn = []
    for start in range(0, len(captions), batch):
        part = list(captions[start : start + batch])
        noise = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        images = pipeline(
            part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noise, output_type="pt"
        ).images
        drawn.append(images.float() * 2 - 1)
    return torch.cat(drawn)


def measure(pipeline: Any, pictures: Pictures, judge: Sequence[Encoder], before: Any, seed: int = 0) -> dict[str, Any]:
    """All that the card says: the judge on real pictures and on drawings, the caption test; ``before`` is another
    pipeline that the judge is asked about beside it, by captions without a style."""
    asked = _some(pictures.drawable, seed)
    real = _floats(asked)
    drawn = draw_captions(pipeline, [row.caption for row in asked], seed)
    plain = draw_captions(before, [", ".join(row.caption.split(", ")[:-1]) for row in asked], seed)
    seen = _some(pictures.train, seed)
    rows = _some(pictures.held_out, seed)
    return {
        "real": asdict(retrieved(judge, real, asked)),
        "drawn": asdict(retrieved(judge, drawn, asked)),
        "drawn_by_tiny_sd": asdict(retrieved(judge, plain, asked)),
        "drawn_of_training": asdict(
            retrieved(judge, draw_captions(pipeline, [row.caption for row in seen], seed), seen)
        ),
        "caption_test": own_below_shuffled(pipeline, rows, seed),
        "caption_test_drawable": own_below_shuffled(pipeline, asked, seed),
        "train": len(pictures.train), "held_out": len(pictures.held_out), "drawable": len(pictures.drawable),
        "judge": len(pictures.judge),
    }  # fmt: skip


def own_below_shuffled(pipeline: Any, rows: Sequence[Shown], seed: int = 0) -> float:
    """Share of pictures whose own caption gives a lower loss than that of a picture of another thing in the same
    style: mean of 16 draws, t from 100 to 850."""
    generator = torch.Generator().manual_seed(seed)
    others = []
    for row in rows:
        same = [other for other in rows if other.style == row.style and other.concept != row.concept]
        others.append(same[int(torch.randint(len(same), (1,), generator=generator))].caption)
    own, shuffled = torch.zeros(0), torch.zeros(0)
    for start in range(0, len(rows), 100):
        part = rows[start : start + 100]
        pairs = [Pair(row.pixels.float() / 127.5 - 1, row.caption, row.concept, row.style) for row in part]
        own = torch.cat([own, caption_losses(pipeline, pairs, [row.caption for row in part], DRAWS)])
        shuffled = torch.cat([shuffled, caption_losses(pipeline, pairs, others[start : start + 100], DRAWS)])
    return float((own < shuffled).float().mean())


def sample_grid(pipeline: Any, pictures: Pictures, out: Path, seed: int = 0) -> None:
    """Drawings beside the real pictures, with their captions: three rows of training's, one of things held out."""
    seen, unseen = _some(pictures.train, seed, 18), _some(pictures.drawable, seed, 6)
    drawn = draw_captions(pipeline, [row.caption for row in (*seen, *unseen)], seed)
    made = [to_picture(pixels) for pixels in drawn]
    captions = [*[row.caption for row in seen], *[f"held out: {row.caption}" for row in unseen]]
    real = [Image.fromarray(row.pixels.permute(1, 2, 0).numpy()) for row in (*seen, *unseen)]
    title = f"left: drawn by the base (DDIM {STEPS} steps, guidance {GUIDANCE:g})   right: the real picture"
    draw_grid(made, list(zip(real, captions, strict=True)), title, side=2 * SIZE).save(out)


def model_card(report: dict[str, Any]) -> str:
    """README.md of the pipeline's folder."""
    sets = "\n".join(f"| {s.name} | {s.version} | {s.author} | {s.licence} | https://{s.source} |" for s in BASE)
    judges = ", ".join(f"{s.name} {s.version} ({s.licence})" for s in JUDGE)
    minutes = ", ".join(f"{name} {value:.0f}" for name, value in report["minutes"].items())
    asked = [
        ("real pictures", "real"), ("what this base draws", "drawn"),
        ("what `assets/tiny-sd` draws", "drawn_by_tiny_sd"),
        ("what this base draws, of training captions", "drawn_of_training"),
    ]  # fmt: skip
    table = "\n".join(
        f"| {said} | {report[name]['whole']:.1%} | {report[name]['names']:.1%} | {report[name]['pictures']} |"
        for said, name in asked
    )
    return CARD.format(sets=sets, judges=judges, minutes=minutes, table=table, candidates=CANDIDATES, report=report)


def _some(rows: Sequence[Shown], seed: int, most: int = MOST) -> list[Shown]:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return [rows[i] for i in order[:most]]


def _floats(rows: Sequence[Shown]) -> Tensor:
    return torch.stack([row.pixels for row in rows]).float() / 127.5 - 1
