"""Sampling a memorised prompt without regurgitating: change its embedding a little at the first step, or its words.

Wen et al. (ICLR 2024, section 5.1) minimise the magnitude at the first step over the prompt embedding. Here every
image has a float32 embedding and an optimiser state of its own, so that neither the strength nor the result depends on
how many images are made together; there is no weight decay, the start token is left alone, and the magnitude is
measured once more after the last update.

``adamw`` is the paper's way: every coordinate moves by about the learning rate, whether the magnitude depends on it
much or not. ``closest`` moves along the gradient alone, and just as far as the target asks for by its slope (Polyak's
step), so that what is met is met with less change to the embedding.

What moves may be narrowed: ``words`` leaves the end token and the padding as they are, ``padding`` the words. Encoders
gather the whole prompt there, and memorised prompts lean on these positions (Ren et al., ECCV 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.inference.detect.detectors import DETECTORS, DetectSettings, measure_prompts
from memsieve.inference.detect.ordinary import Reference
from memsieve.inference.explain.explain import Explanation, explain, magnitude_and_gradient
from memsieve.inference.explain.words import token_table
from memsieve.inference.generate import sampling_scheduler
from memsieve.inference.guided import GuidedModel, norm_of, open_model

__all__ = [
    "METHODS",
    "TARGET_QUANTILE",
    "TOKENS",
    "Minimized",
    "Suggestion",
    "draw",
    "draw_from",
    "minimize",
    "minimize_embeddings",
    "ordinary_target",
    "suggest_edits",
]

METHODS: Final = {"adamw": 0.05, "closest": 0.1}
"""And the ``lr`` of each: AdamW's, and the largest update as a share of the embedding's norm."""
TARGET_QUANTILE: Final = 0.3
"""Of ordinary prompts' magnitudes: at the median a third of the copies stay, at .2 more of the prompt is lost."""
TOKENS: Final = {"all": ("word", "end", "padding"), "words": ("word",), "padding": ("end", "padding")}
"""Kinds of positions that may move."""
AIM: Final = 0.98


@dataclass(slots=True)
class Minimized:
    """Embeddings of one prompt, a row per image: ``pipe(**result.arguments)`` draws them.

    ``cond`` and ``uncond`` hold n rows in the network's dtype, pooled embeddings and masks included where the family
    has them; ``latents`` [n, C, h, w] is the initial noise that they were fitted to (before the scheduler's scaling).
    ``arguments`` is all of it under the names of the family's pipeline, with the guidance scale. ``trace[i]`` holds the
    magnitudes [n] before update i; ``magnitude`` that of what is returned, measured in the network's dtype.
    """

    prompt: str
    cond: Conditioning
    uncond: Conditioning
    latents: Tensor
    arguments: dict[str, Any]
    target: float
    trace: list[list[float]]
    magnitude: list[float]
    met: list[bool]

    @property
    def prompt_embeds(self) -> Tensor:
        """The minimised sequence, [n, L, D]."""
        return self.cond.encoder_hidden_states

    @property
    def negative_prompt_embeds(self) -> Tensor:
        """The unconditional sequence, [n, L, D]."""
        return self.uncond.encoder_hidden_states

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the tensors."""
        names = ("prompt", "target", "trace", "magnitude", "met")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """An edited prompt and its score, measured with the same noise as the original's; p where there is a reference."""

    prompt: str
    change: str
    score: float
    p: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.inference_mode(False)
def minimize(
    model: Any,
    prompt: str,
    target: float,
    *,
    images: int = 1,
    iterations: int = 30,
    lr: float | None = None,
    method: str = "adamw",
    tokens: str = "all",
    settings: DetectSettings | None = None,
    batch: int = 4,
    scheduler: str = "auto",
) -> Minimized:
    """Embeddings of ``prompt`` whose magnitude at the first step is at most ``target`` for each of ``images`` images.

    The noise is that of detection with the same seed. Where the target is not met after ``iterations`` updates, the
    embedding with the lowest magnitude seen is returned and ``met`` says so.

    Args:
        lr: AdamW's, or with ``closest`` the largest update, as a share of the embedding's norm; the method's own in
            ``METHODS`` if left out.
        method: ``adamw`` or ``closest``.
        tokens: what moves: ``all``, the ``words``, or the end and the ``padding`` behind them. Pooled embeddings move
            with ``all`` alone.

    Raises:
        ValueError: an empty prompt, an unknown name, a number out of range, or values that are not finite.
    """
    settings = settings or DetectSettings()
    opened = open_model(model, scheduler=scheduler)
    prompt = prompt.strip()
    if not prompt:
        raise ValueError("the prompt is empty: there is nothing to minimise")
    if images < 1:
        raise ValueError(f"--images = {images}: must be at least 1")
    if tokens not in TOKENS:
        raise ValueError(f"--tokens = '{tokens}': must be one of {', '.join(TOKENS)}")
    fixed = None if tokens == "all" else _fixed(opened, prompt, TOKENS[tokens])
    noise = opened.noise([prompt] * images, range(images), settings.seed, settings.resolution)
    cond = opened.encode([prompt]).expand(images)
    uncond = opened.unconditional(images)
    first = next(
        opened.trajectory(
            noise, cond, uncond, steps=1, schedule_steps=settings.schedule_steps,
            guidance_scale=settings.guidance_scale,
        )
    )  # fmt: skip
    parts = []
    for start in range(0, images, batch):
        rows = slice(start, start + batch)
        parts.append(
            minimize_embeddings(
                opened, first.model_input[rows], first.timestep, cond.rows(rows), uncond.rows(rows), target,
                iterations=iterations, lr=lr, method=method, fixed=fixed, space=settings.space,
            )
        )  # fmt: skip
    fitted = Conditioning.cat([part.cond for part in parts])
    longest = max(len(part.trace) for part in parts)
    # a part that was done early shows its last values on, so that every row of the trace holds all images
    trace = [[v for part in parts for v in part.trace[min(i, len(part.trace) - 1)]] for i in range(longest)]
    magnitude = [value for part in parts for value in part.magnitude]
    negative, latents = uncond.to(dtype=opened.dtype).map(torch.Tensor.contiguous), noise.to(opened.dtype)
    arguments = opened.denoiser.call_arguments(fitted, negative, settings.guidance_scale, latents)
    return Minimized(
        prompt, fitted, negative, latents, arguments, target, trace, magnitude,
        [value <= target for value in magnitude],
    )  # fmt: skip


def _fixed(model: GuidedModel, prompt: str, kinds: Sequence[str]) -> list[int]:
    """Positions of the sequence that are of no kind in ``kinds``."""
    layout = model.denoiser.text_layout()
    places = [
        (part.first + token.position, token.kind) for part in layout for token in token_table(part, prompt).tokens
    ]
    return sorted({position for position, kind in places if kind not in kinds})


def draw(model: GuidedModel, result: Minimized, settings: DetectSettings) -> tuple[Tensor, Tensor]:
    """The images [n, 3, H, W] in [-1, 1] of the prompt as it was and as minimised, from the same noise."""
    before = model.encode([result.prompt]).expand(len(result.latents)).to(dtype=model.dtype)
    return draw_from(model, result, before, settings), draw_from(model, result, result.cond, settings)


def draw_from(model: GuidedModel, result: Minimized, cond: Conditioning, settings: DetectSettings) -> Tensor:
    """The images [n, 3, H, W] in [-1, 1] of embeddings of n rows, from the noise of ``result``."""
    arguments = model.denoiser.call_arguments(cond, result.uncond, settings.guidance_scale, result.latents)
    own = model.pipe.scheduler
    model.pipe.scheduler = sampling_scheduler(model.pipe, model.scheduler_name)
    try:
        side = model.pixels(result.latents)
        output = model.pipe(
            **arguments, height=side, width=side, num_inference_steps=settings.schedule_steps, output_type="pt",
        )  # fmt: skip
    finally:
        model.pipe.scheduler = own
    images: Tensor = output.images.float().cpu().clamp(0, 1) * 2 - 1
    return images


def ordinary_target(
    model: Any, ordinary: Sequence[str], settings: DetectSettings, quantile: float = TARGET_QUANTILE, batch: int = 16
) -> float:
    """A target: this quantile of ordinary prompts' magnitudes at the first step.

    Raises:
        ValueError: the quantile is none, or there is no prompt.
    """
    if not 0 <= quantile <= 1 or not ordinary:
        raise ValueError(f"--target-quantile = {quantile:g}: must be from 0 to 1, of at least one ordinary prompt")
    first = replace(settings, detector="magnitude", steps=1, images_per_prompt=1, early_exit=False)
    measured = measure_prompts(open_model(model), ordinary, first, batch)
    return float(np.quantile([m.magnitudes[0, 0] for m in measured], quantile))


class Fitted(NamedTuple):
    """What ``minimize_embeddings`` found: ``cond`` of B rows, the magnitudes [B] before each update, and in the end."""

    cond: Conditioning
    trace: list[list[float]]
    magnitude: list[float]


@torch.inference_mode(False)
def minimize_embeddings(
    model: GuidedModel,
    model_input: Tensor,
    timestep: Tensor,
    cond: Conditioning,
    uncond: Conditioning,
    target: float,
    *,
    iterations: int = 30,
    lr: float | None = None,
    method: str = "adamw",
    fixed: Sequence[int] | None = None,
    space: str = "auto",
) -> Fitted:
    """The core of ``minimize`` on what the network sees at one step; pooled embeddings are fitted too, unless ``fixed``
    names positions of the sequence that stay as they are.

    Raises:
        ValueError: a number out of range, or magnitudes or gradients that are not finite.
    """
    if method not in METHODS:
        raise ValueError(f"--method = '{method}': must be one of {', '.join(METHODS)}")
    lr = METHODS[method] if lr is None else lr
    if iterations < 0 or not lr > 0 or not target > 0:
        raise ValueError(
            f"--iterations = {iterations}, --lr = {lr:g}, --target = {target:g}: iterations must be at least 0, lr and "
            "target above 0"
        )
    # A float32 master copy: in float16 AdamW's eps is zero, and the embedding NaN after one update.
    masters = {n: value.detach().float().clone().requires_grad_(True) for n, value in cond.embeddings.items()}
    starts = {part.first for part in model.denoiser.text_layout() if part.has_start}
    still = sorted(starts | set(fixed or ()))
    optimizer = torch.optim.AdamW(list(masters.values()), lr=lr, weight_decay=0.0)
    best = {name: master.detach().clone() for name, master in masters.items()}
    best_value = torch.full((len(cond),), float("inf"), device=model.device)
    trace: list[list[float]] = []
    for iteration in range(iterations + 1):
        # Measured through the network's dtype, as the pipeline will use it; also after the last update.
        rounded = {name: master.detach().to(model.dtype).float() for name, master in masters.items()}
        whole = cond.with_embeddings(rounded)
        value, gradients = magnitude_and_gradient(model, model_input, timestep, whole, uncond, space)
        if not all(bool(torch.isfinite(found).all()) for found in (value, *gradients.values())):
            raise ValueError("the magnitude or its gradient is not finite in this precision; take --dtype bfloat16")
        trace.append(value.tolist())
        better = (best_value > target) & (value < best_value)
        best_value[better] = value[better]
        for name, master in masters.items():
            best[name][better] = master.detach()[better]
        running = best_value > target
        if iteration == iterations or not running.any():
            break
        for name, gradient in gradients.items():
            masters[name].grad = gradient.clone()
            if name == "encoder_hidden_states":
                masters[name].grad[:, still] = 0  # type: ignore[index]
            elif fixed is not None:
                masters[name].grad.zero_()  # type: ignore[union-attr]
        if method == "closest":
            _closest(masters, value, target, running, lr)
        else:
            _adamw(masters, optimizer, running, still)
    return Fitted(cond.with_embeddings(best).to(dtype=model.dtype), trace, best_value.tolist())


def _adamw(masters: dict[str, Tensor], optimizer: torch.optim.Optimizer, running: Tensor, still: list[int]) -> None:
    """One update of the images ``running`` [B]; the positions ``still`` are left alone."""
    before = {name: master.detach().clone() for name, master in masters.items()}
    optimizer.step()
    with torch.no_grad():
        for name, master in masters.items():
            # Momentum would carry images on that have met the target; rounding could touch what is left alone.
            master[~running] = before[name][~running]
            if name == "encoder_hidden_states":
                master[:, still] = before[name][:, still]


@torch.no_grad()
def _closest(masters: dict[str, Tensor], value: Tensor, target: float, running: Tensor, most: float) -> None:
    """e -= (d - target) grad d / ||grad d||^2 for the images ``running`` [B], at most ``most`` of ||e|| (Polyak, 1969).

    It aims a little below the target, which a curved magnitude would else approach for ever.
    """
    gradients = {name: master.grad for name, master in masters.items() if master.grad is not None}
    square = torch.stack([norm_of(gradient) ** 2 for gradient in gradients.values()]).sum(0).clamp_min(1e-12)
    size = torch.stack([norm_of(master) ** 2 for master in masters.values()]).sum(0).sqrt()
    share = (value - AIM * target).clamp_min(0) / square
    share = torch.minimum(share, most * size / square.sqrt())
    share[~running] = 0
    for name, gradient in gradients.items():
        masters[name] -= share.view(-1, *([1] * (gradient.ndim - 1))) * gradient


@torch.inference_mode(False)
def suggest_edits(
    model: Any,
    prompt: str,
    *,
    words: int = 3,
    replacements: Sequence[str] = ("something",),
    settings: DetectSettings | None = None,
    reference: Reference | None = None,
    scheduler: str = "auto",
) -> tuple[Explanation, list[Suggestion]]:
    """What a person can do: the ``words`` heaviest words dropped or replaced, alone and together, each rescored.

    The original comes first among the suggestions (change "none"), the others by score. Every edit is measured with the
    original's noise, so that scores differ by the words alone.

    Raises:
        ValueError: as ``explain``.
    """
    settings = settings or DetectSettings()
    opened = open_model(model, scheduler=scheduler)
    explanation = explain(opened, prompt, settings=settings)
    written = [word.text for word in explanation.words]
    heaviest = explanation.heaviest(words)
    edits: dict[str, str] = {explanation.prompt: "none"}
    for count in range(1, len(heaviest) + 1):
        for chosen in [[word] for word in heaviest] if count == 1 else [heaviest[:count]]:
            named = ", ".join(f"'{word.text}'" for word in chosen)
            for substitute in ("", *replacements):
                edited = _edited(written, {word.index for word in chosen}, substitute)
                change = f"drop {named}" if not substitute else f"replace {named} by '{substitute}'"
                if edited:
                    edits.setdefault(edited, change)
    detector = DETECTORS[settings.detector]
    measured = measure_prompts(opened, list(edits), settings, noise_of=explanation.prompt)
    found = []
    for (text, change), measurement in zip(edits.items(), measured, strict=True):
        evidence = detector.evidence(measurement)
        if reference is None:
            found.append(Suggestion(text, change, float(measurement.magnitudes.mean()), None))
            continue
        score = reference.scores(np.asarray([[evidence[name] for name in reference.names]]))
        found.append(Suggestion(text, change, float(score[0]), float(reference.p_values(score)[0])))
    return explanation, [found[0], *sorted(found[1:], key=lambda suggestion: suggestion.score)]


def _edited(words: Sequence[str], chosen: set[int], substitute: str) -> str:
    kept = [substitute if index in chosen else word for index, word in enumerate(words)]
    return " ".join(word for word in kept if word)
