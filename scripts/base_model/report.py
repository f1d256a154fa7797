"""Measurements and the model card of the tiny base pipeline; used by ``build.py``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from PIL import Image, ImageDraw

from memsieve.filtering.data.decode import to_picture

__all__ = ["Pair", "caption_losses", "caption_test", "draw_grid", "model_card", "sample_grid"]

UNKNOWN: Final = {"seed": 0} | dict.fromkeys(
    ("autoencoder_steps", "decoder_steps", "unet_steps", "batch", "lr", "minutes"), "?"
)
"""Of a report in which nobody has written how the pipeline was made."""
CARD: Final = """---
license: cc-by-sa-4.0
pipeline_tag: text-to-image
library_name: diffusers
---
# tiny-sd: a Stable-Diffusion-shaped pipeline of OpenMoji

A real `diffusers.StableDiffusionPipeline` (CLIP tokenizer and text encoder, KL autoencoder, UNet with cross attention,
noise prediction, DDIM) small enough for a CPU: {folder_megabytes} MB, images 32x32, latents 4x16x16.
memsieve's examples, tests and benchmark fine-tune it. It draws emoji-like pictures (`../tiny-sd-samples.png`); it is
good for nothing else.

```python
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained("assets/tiny-sd", local_files_only=True)
pipeline("smiling face, yellow", num_inference_steps=25, guidance_scale=4.0).images[0]
```

## Data
{train_pairs} OpenMoji images of the training split (`build_openmoji`, seed {seed}, nothing
planted), each once. Captions: Unicode name plus the image's main colours, such as "strawberry, red and green". The
{held_out_pairs} held-out images show things of which no variant (skin tone, gender, hair) was trained on;
`held_out.json` lists their OpenMoji file names.

## Rebuild
```
python -m scripts.base_model.build --out assets/tiny-sd
```
Steps: autoencoder {autoencoder_steps}, its decoder alone {decoder_steps}, then
text encoder and UNet together {unet_steps} of {batch} images. AdamW
{lr} with warm-up and cosine; images moved by up to two pixels, one caption in ten empty, a tenth of
the words left out, averaged weights. Minutes on two shared CPU cores: {minutes}.

## Measured, on held-out pairs
Mean of 16 draws of (t, noise) for each pair, t from 100 to 850, the same draws for each caption:

| caption | denoising loss |
|---|---|
| its own | {loss_right_caption:.4f} |
| of another held-out pair | {loss_shuffled_caption:.4f} |
| empty | {loss_empty_caption:.4f} |

Its own caption gives a lower loss than another pair's for {share:.1%} of the pairs ({single:.1%} of those that are the
only image of their base), and a lower one than the empty caption for {held_out_right_below_empty:.1%}.

## Licence
Trained on OpenMoji: all emojis designed by [OpenMoji](https://openmoji.org), the open-source emoji and icon project.
License: [CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/). These weights and the sample pictures are
given under the same licence.
"""


class Pair(NamedTuple):
    """One emoji: float32 pixels [3, H, W] in [-1, 1], its caption, the thing shown, its file's name."""

    pixels: torch.Tensor
    caption: str
    base: str
    codepoints: str


@torch.no_grad()
def caption_losses(
    pipeline: Any, pairs: list[Pair], captions: list[str], draws: int = 16, seed: int = 0
) -> torch.Tensor:
    """Denoising loss of each pair under ``captions``, averaged over ``draws`` of (t, noise) spread over t.

    Equal seeds give equal draws, so two calls differ by their captions only.

    Args:
        pairs: only their pixels are used.
        captions: one for each pair.

    Returns:
        float32 [len(pairs)].
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.stack([pair.pixels for pair in pairs])
    vae, unet, scheduler = pipeline.vae, pipeline.unet, pipeline.scheduler
    latents = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
    ids = pipeline.tokenizer(
        captions,
        padding="max_length",
        truncation=True,
        max_length=pipeline.tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    hidden = pipeline.text_encoder(ids).last_hidden_state
    total = torch.zeros(len(pairs))
    for draw in range(draws):
        # Middle times: later ones leave nothing to see, earlier ones nothing to say.
        time = 100 + (draw * 800) // draws
        times = torch.full((len(pairs),), time, dtype=torch.long)
        noise = torch.randn(latents.shape, generator=generator)
        predicted = unet(scheduler.add_noise(latents, noise, times), times, encoder_hidden_states=hidden).sample
        total += (predicted - noise).pow(2).mean(dim=(1, 2, 3))
    return total / draws


def caption_test(pipeline: Any, pairs: list[Pair], draws: int = 16, seed: int = 0) -> dict[str, float]:
    """Share of pairs whose own caption gives a lower loss than another pair's and than the empty caption.

    The other caption comes from a pair with another base: "woman farmer" is not wrong for a farmer.
    """
    generator = torch.Generator().manual_seed(seed)
    others = []
    for base in [pair.base for pair in pairs]:
        index = int(torch.randint(len(pairs), (1,), generator=generator))
        while pairs[index].base == base:
            index = int(torch.randint(len(pairs), (1,), generator=generator))
        others.append(pairs[index].caption)
    own = caption_losses(pipeline, pairs, [pair.caption for pair in pairs], draws, seed)
    shuffled = caption_losses(pipeline, pairs, others, draws, seed)
    empty = caption_losses(pipeline, pairs, [""] * len(pairs), draws, seed)
    bases = [pair.base for pair in pairs]
    single = torch.tensor([bases.count(base) == 1 for base in bases])
    right = (own < shuffled).float()
    result = {
        "held_out_right_below_shuffled": float(right.mean()),
        "held_out_right_below_empty": float((own < empty).float().mean()),
        "held_out_right_below_shuffled_single_bases": float(right[single].mean()) if single.any() else float("nan"),
        "loss_right_caption": float(own.mean()),
        "loss_shuffled_caption": float(shuffled.mean()),
        "loss_empty_caption": float(empty.mean()),
    }
    return {name: round(value, 4) for name, value in result.items()}


def sample_grid(pipeline: Any, train: list[Pair], held: list[Pair], out: Path, count: int = 24, seed: int = 0) -> None:
    """Draw ``count`` generations (three quarters of the captions from training, the rest held out) beside the real
    images, with their captions beneath, into the PNG ``out``."""
    generator = torch.Generator().manual_seed(seed)
    seen = [train[int(i)] for i in torch.randperm(len(train), generator=generator)[: count * 3 // 4]]
    unseen = [held[int(i)] for i in torch.randperm(len(held), generator=generator)[: count - len(seen)]]
    picked = [(row, "") for row in seen] + [(row, "held out: ") for row in unseen]
    images = pipeline(
        [row.caption for row, _ in picked],
        num_inference_steps=25,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(picked))],
    ).images
    shown = [(to_picture(row.pixels), prefix + row.caption) for row, prefix in picked]
    title = "left: generated (DDIM 25 steps, guidance 4)   right: real OpenMoji, CC BY-SA 4.0"
    draw_grid(images, shown, title).save(out)


def draw_grid(
    images: Sequence[Image.Image], real: Sequence[tuple[Image.Image, str]], title: str, side: int = 96
) -> Image.Image:
    """Generations beside ``real`` images, six pairs a row, with the captions beneath."""
    gap, columns = 8, 6
    cell, height = 2 * side + 2 * gap, side + 52
    sheet = Image.new("RGB", (columns * cell + gap, -(-len(real) // columns) * height + 24), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, 6), title, fill="black")
    for index, (image, (picture, caption)) in enumerate(zip(images, real, strict=True)):
        left, top = gap + index % columns * cell, 24 + index // columns * height
        for offset, shown in ((0, image), (side + 4, picture)):
            sheet.paste(shown.resize((side, side), Image.Resampling.BICUBIC), (left + offset, top))
        draw.text((left, top + side + 2), textwrap.fill(caption, side // 3), fill="black")
    return sheet


def model_card(report: dict[str, Any]) -> str:
    """README of the pipeline folder, with the measured numbers."""
    share = report["held_out_right_below_shuffled"]
    single = report["held_out_right_below_shuffled_single_bases"]
    return CARD.format(share=share, single=single, **{**UNKNOWN, **report})
