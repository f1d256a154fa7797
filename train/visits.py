"""Everything that is drawn for a visit, once: its caption, its timestep, its noises, from the seed and its position.

Crop, flip and, of several captions, which one are drawn as the row is decoded (``filtering/data/decode.py``), from the
same position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from memsieve.filtering.audit.looked_up import LookedUpReference
from memsieve.filtering.data.buckets import Bucket
from memsieve.filtering.data.draws import VisitDraw, normal_like, row_generator
from memsieve.filtering.data.rows import Row
from memsieve.filtering.denoisers.base import EPSILON_FLOOR
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.schedule import WindowPlan
from memsieve.filtering.types import Visit
from memsieve.train.draw_settings import DrawSettings

__all__ = [
    "DrawnVisit",
    "Position",
    "Sample",
    "draw_visits",
    "draw_window",
    "measurable",
    "plain_samples",
    "random_tokens",
    "training_samples",
]

Position = tuple[int | str, int, int]
"""What draws are keyed by: a row's (stream, epoch, offset), or a name and two numbers where a row comes by itself."""
Numbered = tuple[int, VisitDraw]
"""A draw of an audit, and its number."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a visit shows the model: the image, and the caption as it is in this visit ("" where it was dropped).

    ``pixels`` [3, H, W] are zeros for padding and where the row's are not ``finite``; padding is a visit without a key.
    """

    visit: Visit
    position: Position
    pixels: torch.Tensor
    caption: str
    present: bool = True
    finite: bool = True


@dataclass(frozen=True, slots=True)
class DrawnVisit:
    """A visit with all that is random about it.

    ``timestep`` counts along the schedule; ``noise`` (an offset included) and ``vae_noise`` are float32 [C, h, w], and
    so is ``perturbation``, what x_t holds beside the noise, None where nothing. ``draw`` is the number of the audit's
    draw that the visit is noised by, -1 where it is by its position. ``readable``: it has a caption, and epsilon space
    says something at its t; ``usable``: moreover t is within ``max_timestep``, so that it is evidence if its input is
    finite.
    """

    sample: Sample
    timestep: int
    noise: torch.Tensor
    vae_noise: torch.Tensor
    perturbation: torch.Tensor | None
    draw: int
    readable: bool
    usable: bool


def draw_window(
    denoiser: Any,
    rows: Sequence[Row | None],
    settings: DrawSettings,
    batch_size: int,
    pair_filter: MemorizationFilter | None,
    looked_up: LookedUpReference | None,
    shape: Bucket | None = None,
) -> tuple[list[DrawnVisit], WindowPlan | None]:
    """The visits of a rank's window (None = padding, of ``shape``), and what is measured of them where that is planned;
    opens the filter's window, a collective.

    Where the reference is looked up, measured visits take the audit's draws. Those are known with the plan only, so the
    plan goes by the captions alone.
    """
    samples = training_samples(denoiser, rows, settings, batch_size, pair_filter, shape)
    names = [sample.visit for sample in samples]
    if looked_up is None:
        visits = draw_visits(denoiser, samples, settings)
        if pair_filter is None:
            return visits, None
        return visits, pair_filter.begin_window(names, [visit.usable for visit in visits], batch_size)
    assert pair_filter is not None, "audits are looked up for a filter"
    plan = pair_filter.begin_window(names, [bool(sample.caption) for sample in samples], batch_size)
    numbers = [-1] * len(names) if plan is None else plan.visits
    latent = denoiser.latent_shape(*samples[0].pixels.shape[1:])  # a window has one
    audited = [
        (number, looked_up.draw(visit.group, number, latent)) if visit.key and number >= 0 else None
        for visit, number in zip(names, numbers, strict=True)
    ]
    return draw_visits(denoiser, samples, settings, audited), plan


def training_samples(
    denoiser: Any,
    rows: Sequence[Row | None],
    settings: DrawSettings,
    batch_size: int,
    pair_filter: MemorizationFilter | None = None,
    shape: Bucket | None = None,
) -> list[Sample]:
    """Rows as they are trained on: with their captions of this visit, drawn by their positions or taken away by the
    filter; padding is keyed by its place in its batch, and of ``shape`` (height, width), a square without."""
    samples = []
    for place, row in enumerate(rows):
        if row is None:
            samples.append(_padding(place % batch_size, settings, shape))
            continue
        visit = _visit_of(row)
        taken = pair_filter is not None and pair_filter.without_caption(visit)
        position = (row.stream, row.epoch, row.offset)
        caption = "" if taken else _drawn_caption(denoiser, row.caption, position, settings)
        samples.append(_sample(row, visit, position, caption))
    return samples


def plain_samples(
    rows: Sequence[Row | None],
    settings: DrawSettings,
    positions: Sequence[Position] | None = None,
    shape: Bucket | None = None,
) -> list[Sample]:
    """Rows with their captions as they are; ``positions`` where draws are keyed by something else than their places,
    ``shape`` of padding."""
    samples = []
    for place, row in enumerate(rows):
        if row is None:
            samples.append(_padding(place, settings, shape))
            continue
        position = positions[place] if positions is not None else (row.stream, row.epoch, row.offset)
        samples.append(_sample(row, _visit_of(row), position, row.caption))
    return samples


def draw_visits(
    denoiser: Any,
    samples: Sequence[Sample],
    settings: DrawSettings,
    audited: Sequence[Numbered | None] | None = None,
    among: Sequence[int] | None = None,
) -> list[DrawnVisit]:
    """Draw t and the noises of ``samples``, whose pixels are of one shape.

    Args:
        audited: number and draw of samples that an audit has measured; the others are noised by their position.
        among: the timesteps that t is drawn from; None draws from all.
    """
    given = audited if audited is not None else [None] * len(samples)
    shape = denoiser.latent_shape(*samples[0].pixels.shape[1:])
    draws = [
        found[1] if found is not None else _draw_at(denoiser, settings.seed, sample.position, shape, among)
        for sample, found in zip(samples, given, strict=True)
    ]
    times = denoiser.timesteps_at(torch.tensor([draw.timestep for draw in draws], device=denoiser.device))
    readable, usable = measurable(denoiser, times), measurable(denoiser, times, settings.max_timestep)
    visits = []
    for i, (sample, draw, found) in enumerate(zip(samples, draws, given, strict=True)):
        noise, perturbation = draw.noise, None
        if settings.noise_offset:
            offset = _further(settings.seed, sample.position, (shape[0], 1, 1), "offset")
            noise = noise + settings.noise_offset * offset
        if settings.input_perturbation:
            further = _further(settings.seed, sample.position, shape, "perturbation")
            perturbation = settings.input_perturbation * further
        number, captioned = found[0] if found is not None else -1, bool(sample.caption)
        said = captioned and readable[i], captioned and usable[i]
        visits.append(DrawnVisit(sample, draw.timestep, noise, draw.vae_noise, perturbation, number, *said))
    return visits


def measurable(denoiser: Any, times: torch.Tensor, max_timestep: float = 1.0) -> list[bool]:
    """Whether a visit at each of ``times`` [B] says something: epsilon space does, and ``max_timestep`` of the
    schedule is not passed."""
    times = times.to("cpu")
    said = denoiser.epsilon_factor(times) >= EPSILON_FLOOR
    if max_timestep < 1.0:
        said = said & (times < max_timestep * denoiser.num_train_timesteps)
    return [bool(ok) for ok in said.tolist()]


def random_tokens(caption: str, tokenizer: Any, count: int, generator: np.random.Generator) -> str:
    """Random token addition: ``count`` tokens of the vocabulary, as text, at random places of the caption."""
    words = caption.split()
    special = set(tokenizer.all_special_ids)
    for _ in range(count):
        token = int(generator.integers(len(tokenizer)))
        while token in special:
            token = int(generator.integers(len(tokenizer)))
        words.insert(int(generator.integers(len(words) + 1)), tokenizer.decode([token]).strip())
    return " ".join(words)


def _visit_of(row: Row) -> Visit:
    """The row's names and position."""
    return Visit(row.key, row.shard, row.index, row.group, row.caption, row.stream, row.epoch, row.offset)


def _sample(row: Row, visit: Visit, position: Position, caption: str) -> Sample:
    finite = bool(torch.isfinite(row.pixels).all())
    return Sample(visit, position, row.pixels if finite else torch.zeros_like(row.pixels), caption, finite=finite)


def _padding(place: int, settings: DrawSettings, shape: Bucket | None) -> Sample:
    pixels = torch.zeros(3, *(shape or (settings.resolution, settings.resolution)))
    return Sample(Visit(key=""), ("padding", 0, place), pixels, "", present=False)


def _drawn_caption(denoiser: Any, caption: str, position: Position, settings: DrawSettings) -> str:
    """The caption, dropped or with random tokens: both by one generator, in this order."""
    words = row_generator(settings.seed, *position, purpose="caption")
    if words.random() < settings.caption_dropout:
        return ""
    if not settings.random_tokens or not caption:
        return caption
    return random_tokens(caption, denoiser.text_layout()[0].tokenizer, settings.random_tokens, words)


def _draw_at(
    denoiser: Any, seed: int, position: Position, shape: tuple[int, int, int], among: Sequence[int] | None
) -> VisitDraw:
    """t, the noise and the VAE's noise, by one generator, in this order."""
    draw = row_generator(seed, *position, purpose="noise")
    t = int(draw.integers(denoiser.num_train_timesteps if among is None else len(among)))
    return VisitDraw(t if among is None else among[t], normal_like(draw, shape), normal_like(draw, shape))


def _further(seed: int, position: Position, shape: tuple[int, int, int], kind: str) -> torch.Tensor:
    """Normal values beside a sample's noise."""
    return normal_like(row_generator(seed, *position, purpose=f"noise {kind}"), shape)
