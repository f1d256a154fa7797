"""Sampling a memorised prompt without regurgitating: change its embedding a little at the first step, or its words.

Wen et al. (ICLR 2024, section 5.1) minimise the magnitude at the first step over the prompt embedding. Here every
image has a float32 embedding and an optimiser state of its own, so that neither the strength nor the result depends on
how many images are made together; there is no weight decay, the start token is left alone, and the magnitude is
measured once more after the last update.

Beside the model before fine-tuning what is minimised is the drift, ||eps_c - eps_c^base|| / sqrt(n), where the base
keeps its own encoding of the prompt: the prediction goes back to what the base would have made of it. The base's own
drift is zero, and no embedding reaches that, since fine-tuning moves every prompt. So the target is what ordinary
prompts have drifted: beyond it is what was learned of this prompt alone. The anchored magnitude has a level of the
base's own for each prompt and image, ||eps_c^base - eps_0^base|| / sqrt(n), and needs no ordinary prompts; but a
prediction as large as the base's may still point at the pair, so it is not what is taken unasked.

``adamw`` is the paper's way: every coordinate moves by about the learning rate, whether what is measured depends on it
much or not. ``closest`` moves along the gradient alone, and just as far as the target asks for by its slope (Polyak's
step), so that what is met is met with less change to the embedding.

What moves may be narrowed: ``words`` leaves the end token and the padding as they are, ``padding`` the words. Encoders
gather the whole prompt there, and memorised prompts lean on these positions (Ren et al., ECCV 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.inference.detect.detectors import DETECTORS, DetectSettings
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.explain.words import token_table
from memsieve.inference.guided import GuidedModel
from memsieve.inference.minimize.embeddings import Fitted, minimize_embeddings
from memsieve.inference.minimize.settings import TOKENS, MinimizeSettings
from memsieve.inference.opened import open_model
from memsieve.inference.step import Compared

__all__ = ["TARGET_QUANTILE", "Minimized", "minimize", "ordinary_target"]

TARGET_QUANTILE: Final = 0.3
"""Of what ordinary prompts come to: at the median a third of the copies stay, at .2 more of the prompt is lost."""


@dataclass(slots=True)
class Minimized:
    """Embeddings of one prompt, a row per image: ``pipe(**result.arguments)`` draws them.

    ``cond`` and ``uncond`` hold n rows in the network's dtype, pooled embeddings and masks included where the family
    has them; ``latents`` [n, C, h, w] is the initial noise that they were fitted to (before the scheduler's scaling).
    ``arguments`` is all of it under the names of the family's pipeline, with the guidance scale. ``measure`` is what
    was minimised, to at most each image's of ``targets``. ``trace[i]`` holds it [n] before update i, ``value`` that of
    what is returned, in the network's dtype.
    """

    prompt: str
    cond: Conditioning
    uncond: Conditioning
    latents: Tensor
    arguments: dict[str, Any]
    measure: str
    targets: list[float]
    trace: list[list[float]]
    value: list[float]
    met: list[bool]

    @property
    def prompt_embeds(self) -> Tensor:
        """The minimised sequence, [n, L, D]."""
        return self.cond.encoder_hidden_states

    @property
    def negative_prompt_embeds(self) -> Tensor:
        """The unconditional sequence, [n, L, D]."""
        return self.uncond.encoder_hidden_states

    @property
    def updates(self) -> list[int]:
        """Updates of each image until it met the target; all of them where it never did, [n]."""
        columns = zip(*self.trace, strict=True)
        return [
            next((k for k, value in enumerate(column) if value <= target), len(self.trace) - 1)
            for column, target in zip(columns, self.targets, strict=True)
        ]

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the tensors."""
        names = ("prompt", "measure", "targets", "trace", "value", "met")
        return {name: getattr(self, name) for name in names}


@torch.inference_mode(False)
def minimize(
    model: Any,
    prompt: str,
    target: float | None,
    *,
    images: int = 1,
    how: MinimizeSettings | None = None,
    settings: DetectSettings | None = None,
    batch: int = 4,
) -> Minimized:
    """Embeddings of ``prompt`` by which what is measured at the first step is at most ``target`` for each image.

    The noise is that of detection with the same seed. Where the target is not met after ``how.iterations`` updates, the
    embedding with the lowest value seen is returned and ``met`` says so.

    Args:
        model: a pipeline folder or a pipeline; what ``open_model`` gives, where another scheduler is wanted.
        target: None: the base's own level for this prompt, of each image; of ``anchored_magnitude`` alone.
        how: what moves, by which method and how far.
        settings: as in detection; the first measure of ``detector`` is minimised.
        batch: images at a time.

    Raises:
        ValueError: an empty prompt, a number out of range, a base that is needed and not there, or values that are not
            finite.
    """
    settings, how = settings or DetectSettings(), how or MinimizeSettings()
    opened, prompt = open_model(model), prompt.strip()
    if not prompt:
        raise ValueError("the prompt is empty: there is nothing to minimise")
    if images < 1:
        raise ValueError(f"--images = {images}: must be at least 1")
    fixed = _fixed(opened, prompt, how.tokens)
    noise, first, own = _first_step(opened, prompt, images, settings)
    targets = own if target is None else torch.full((images,), float(target))
    parts = []
    for start in range(0, images, batch):
        rows = slice(start, start + batch)
        wanted = targets[rows].to(opened.device)
        parts.append(minimize_embeddings(opened, first.rows(rows), wanted, how, fixed=fixed, space=settings.space))
    fitted = Conditioning.cat([part.cond for part in parts])
    value = [number for part in parts for number in part.value]
    negative, latents = first.seen.uncond.to(dtype=opened.dtype).map(torch.Tensor.contiguous), noise.to(opened.dtype)
    beside = None if opened.denoiser.distilled is not None else negative
    arguments = opened.denoiser.call_arguments(fitted, beside, settings.guidance_scale, latents)
    return Minimized(
        prompt, fitted, negative, latents, arguments, first.measure, targets.tolist(), _whole_trace(parts), value,
        [number <= most for number, most in zip(value, targets.tolist(), strict=True)],
    )  # fmt: skip


def _first_step(
    model: GuidedModel, prompt: str, images: int, settings: DetectSettings
) -> tuple[Tensor, Compared, Tensor]:
    """The initial noise [n, C, h, w], what is compared of it at the first step, and the base's own level [n]."""
    measure = DETECTORS[settings.detector].measures[0]
    noise = model.noise([prompt] * images, range(images), settings.seed, settings.resolution)
    cond, uncond = model.encode([prompt]).expand(images), model.unconditional(images)
    # Of the base both branches, for its own level.
    asked = ("drift", "anchored_magnitude") if measure == "anchored_magnitude" else (measure,)
    against = model.against([prompt], asked)
    first = next(
        model.trajectory(
            noise, cond, uncond, steps=1, schedule_steps=settings.schedule_steps,
            guidance_scale=settings.guidance_scale, against=against.expand(images) if against is not None else None,
        )
    )  # fmt: skip
    own = torch.zeros(images)
    if measure == "anchored_magnitude":
        theirs = first.other("drift") - first.other("anchored_magnitude")
        own = model.norm(theirs, first.timestep, measure, settings.space).cpu()
    return noise, model.compared(first, cond, uncond, measure), own


def _whole_trace(parts: Sequence[Fitted]) -> list[list[float]]:
    """Values [n] before each update. A part that was done early shows its last values on, so that every row holds
    all images."""
    longest = max(len(part.trace) for part in parts)
    return [[v for part in parts for v in part.trace[min(i, len(part.trace) - 1)]] for i in range(longest)]


def _fixed(model: GuidedModel, prompt: str, tokens: str) -> list[int] | None:
    """Positions of the sequence that are of no kind in ``TOKENS[tokens]``; None where all may move."""
    if tokens == "all":
        return None
    layout = model.denoiser.text_layout()
    places = [
        (part.first + token.position, token.kind) for part in layout for token in token_table(part, prompt).tokens
    ]
    return sorted({position for position, kind in places if kind not in TOKENS[tokens]})


def ordinary_target(
    model: Any, ordinary: Sequence[str], settings: DetectSettings, quantile: float = TARGET_QUANTILE, batch: int = 16
) -> float:
    """A target: this quantile of what ordinary prompts come to at the first step, by the measure that is minimised.

    Raises:
        ValueError: the quantile is none, or there is no prompt.
    """
    if not 0 <= quantile <= 1 or not ordinary:
        raise ValueError(f"--target-quantile = {quantile:g}: must be from 0 to 1, of at least one ordinary prompt")
    measure = DETECTORS[settings.detector].measures[0]
    first = replace(settings, detector=measure, steps=1, images_per_prompt=1, early_exit=False)
    measured = measure_prompts(open_model(model), ordinary, first, batch)
    return float(np.quantile([m.per_step[measure][0, 0] for m in measured], quantile))
