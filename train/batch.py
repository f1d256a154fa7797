"""From rows to tensors: every random draw of a visit is a function of the seed and its position in the stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from memsieve.filtering.data.draws import VisitDraw, normal_like, row_generator
from memsieve.filtering.data.rows import Row
from memsieve.filtering.denoisers.base import EPSILON_FLOOR, Conditioning
from memsieve.filtering.schedule import WindowPlan
from memsieve.filtering.types import Visit

__all__ = [
    "Batch",
    "BatchPlan",
    "Encoded",
    "Position",
    "build_batch",
    "caption_dropped",
    "drawn_timesteps",
    "encode",
    "measurable",
    "plan_of",
    "visit_of",
]

Position = tuple[int | str, int, int]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What is measured of a batch: rows ``drawn`` [B], those of them that are ``paid`` for by extra forwards [B],
    whether such forwards are run (on all ranks alike), and their rows."""

    drawn: list[bool]
    paid: list[bool]
    forward: bool
    shape: int


@dataclass(slots=True)
class Batch:
    """One forward's worth of samples on the device.

    ``valid`` is False for padding and for samples whose input is not finite: they are replaced by zeros, train with
    weight 0 and count as nothing. ``captioned`` is False where the caption was dropped in this visit; ``readable``
    also where epsilon space says nothing at this t, ``scored`` where moreover ``filter.max_timestep`` is passed: the
    visit is no evidence. All are [B] lists on the host. ``draws`` [B] are the numbers of the
    audit's draws that rows were noised by, -1 where by their position; ``plan`` is None where all is measured.
    ``reference`` is what is known already of the reference at these draws: its ``loss`` and ``magnitude``, [B].
    """

    visits: list[Visit]
    valid: list[bool]
    captioned: list[bool]
    readable: list[bool]
    scored: list[bool]
    bad: list[Visit]
    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    noisy: torch.Tensor
    conditioning: Conditioning
    draws: list[int] = field(default_factory=list)
    plan: BatchPlan | None = None
    reference: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the frozen parts make of rows: the VAE's posterior, and the conditioning of their captions."""

    posterior: tuple[torch.Tensor, torch.Tensor]
    conditioning: Conditioning


def encode(denoiser: Any, rows: Sequence[Row]) -> Encoded:
    """For rows that come again with the same image and caption."""
    pixels, captions = torch.stack([row.pixels for row in rows]), [row.caption for row in rows]
    return Encoded(denoiser.posterior(pixels), denoiser.conditioning(captions))


def plan_of(plan: WindowPlan, number: int, size: int) -> BatchPlan:
    """The part of a window's plan that is about its batch ``number``, of ``size`` rows."""
    rows = slice(number * size, (number + 1) * size)
    drawn = [visit >= 0 for visit in plan.visits[rows]]
    return BatchPlan(drawn, plan.paid[rows], plan.forwards[number], plan.shape)


def caption_dropped(row: Row, seed: int, caption_dropout: float) -> bool:
    """Whether this visit of ``row`` is trained without its caption, by its position."""
    position = (row.stream, row.epoch, row.offset)
    return bool(row_generator(seed, *position, purpose="caption").random() < caption_dropout)


def visit_of(row: Row) -> Visit:
    """The row's names and position."""
    return Visit(row.key, row.shard, row.index, row.group, row.caption, row.stream, row.epoch, row.offset)


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


def drawn_timesteps(denoiser: Any, seed: int, rows: Sequence[Row | None]) -> torch.Tensor:
    """The timesteps [B] that ``build_batch`` draws for ``rows``, before anything is encoded."""
    places = [_position(row, None, i) for i, row in enumerate(rows)]
    drawn = [int(row_generator(seed, *p, purpose="noise").integers(denoiser.num_train_timesteps)) for p in places]
    times: torch.Tensor = denoiser.timesteps_at(torch.tensor(drawn, device=denoiser.device))
    return times


def measurable(denoiser: Any, times: torch.Tensor, max_timestep: float = 1.0) -> list[bool]:
    """Whether a visit at each of ``times`` [B] says something: epsilon space does, and ``max_timestep`` of the
    schedule is not passed."""
    times = times.to("cpu")
    said = denoiser.epsilon_factor(times) >= EPSILON_FLOOR
    if max_timestep < 1.0:
        said = said & (times < max_timestep * denoiser.num_train_timesteps)
    return [bool(ok) for ok in said.tolist()]


def build_batch(
    denoiser: Any,
    rows: Sequence[Row | None],
    *,
    seed: int,
    resolution: int,
    caption_dropout: float = 0.0,
    added_tokens: int = 0,
    noise_offset: float = 0.0,
    input_perturbation: float = 0.0,
    positions: Sequence[Position] | None = None,
    draws: Sequence[tuple[int, VisitDraw] | None] | None = None,
    uncaptioned: Sequence[bool] | None = None,
    encoded: Encoded | None = None,
    dropped: Sequence[bool] | None = None,
    max_timestep: float = 1.0,
    among: Sequence[int] | None = None,
) -> Batch:
    """Encode ``rows`` (None = padding) and noise them.

    Args:
        denoiser: the model family's adapter.
        seed: of the run.
        resolution: side of the images, for padding.
        caption_dropout: probability that a visit is trained without its caption.
        added_tokens: see ``random_tokens``.
        noise_offset: factor of a normal value per channel that is added to the noise.
        input_perturbation: factor of further normal noise that x_t holds and the target does not.
        positions: what each row's draws are keyed by; the default is its (stream, epoch, offset).
        draws: number and draw of rows that an audit has measured; the others are noised by their position.
        uncaptioned: rows that lose their caption whatever was drawn.
        dropped: what ``caption_dropped`` said of the rows, where it was asked before.
        encoded: the rows' own, with their captions as they are, where they were encoded before.
        max_timestep: of the filter; visits beyond it are not ``scored``.
        among: numbers of the timesteps that t is drawn from; None draws from all.
    """
    device = denoiser.device
    shape = denoiser.latent_shape(resolution)
    visits, valid, captioned, bad, numbers = [], [], [], [], []
    pixels, captions, timesteps, noises, vae_noises = [], [], [], [], []
    for i, row in enumerate(rows):
        present = row is not None and bool(torch.isfinite(row.pixels).all())
        if row is not None and not present:
            bad.append(visit_of(row))
        position = _position(row, positions, i)
        given = draws[i] if draws is not None else None
        t, noise_i, vae_noise = _noise(denoiser, seed, position, shape, among) if given is None else _parts(given[1])
        timesteps.append(t)
        noises.append(noise_i)
        vae_noises.append(vae_noise)
        numbers.append(-1 if given is None else given[0])
        words = None
        if added_tokens or (dropped is None and caption_dropout > 0.0):
            words = row_generator(seed, *position, purpose="caption")
        lost = words.random() < caption_dropout if words is not None else dropped is not None and dropped[i]
        taken = lost or (uncaptioned is not None and uncaptioned[i])
        caption = "" if row is None or taken else row.caption
        if words is not None and added_tokens and caption:
            caption = random_tokens(caption, denoiser.text_layout()[0].tokenizer, added_tokens, words)
        visits.append(visit_of(row) if row is not None else Visit(key=""))
        valid.append(present)
        captioned.append(bool(caption) and present)
        captions.append(caption)
        pixels.append(row.pixels if row is not None and present else torch.zeros(3, resolution, resolution))
    places = [_position(row, positions, i) for i, row in enumerate(rows)]
    if noise_offset:
        noises = [n + noise_offset * _further(seed, p, shape, "offset") for n, p in zip(noises, places, strict=True)]
    times = denoiser.timesteps_at(torch.tensor(timesteps, device=device))
    noise = torch.stack(noises).to(device)
    posterior = encoded.posterior if encoded is not None else denoiser.posterior(torch.stack(pixels))
    latents = denoiser.sample_latents(posterior, torch.stack(vae_noises))
    finite = torch.isfinite(latents).flatten(1).all(1).tolist()
    for i, ok in enumerate(finite):
        if not ok and valid[i]:
            valid[i] = captioned[i] = False
            bad.append(visits[i])
    latents = torch.where(torch.tensor(finite, device=device).view(-1, 1, 1, 1), latents, torch.zeros_like(latents))
    readable = [c and ok for c, ok in zip(captioned, measurable(denoiser, times), strict=True)]
    scored = [c and ok for c, ok in zip(captioned, measurable(denoiser, times, max_timestep), strict=True)]
    conditioning = encoded.conditioning if encoded is not None else denoiser.conditioning(captions)
    conditioning = conditioning.to(dtype=torch.float32)
    seen = noise
    if input_perturbation:
        further = torch.stack([_further(seed, p, shape, "perturbation") for p in places])
        seen = noise + input_perturbation * further.to(device)
    noisy = denoiser.add_noise(latents, seen, times)
    return Batch(visits, valid, captioned, readable, scored, bad, latents, noise, times, noisy, conditioning, numbers)


def _position(row: Row | None, positions: Sequence[Position] | None, place: int) -> Position:
    """What the draws of a row are keyed by."""
    if row is None:
        return ("padding", 0, place)
    return positions[place] if positions is not None else (row.stream, row.epoch, row.offset)


def _further(seed: int, position: Position, shape: tuple[int, int, int], kind: str) -> torch.Tensor:
    """Normal values beside a row's noise: [C, 1, 1] for an ``offset``, [C, h, w] for a ``perturbation``."""
    wanted = (shape[0], 1, 1) if kind == "offset" else shape
    return normal_like(row_generator(seed, *position, purpose=f"noise {kind}"), wanted)


def _noise(
    denoiser: Any, seed: int, position: Position, shape: tuple[int, int, int], among: Sequence[int] | None
) -> tuple[int, torch.Tensor, torch.Tensor]:
    draw = row_generator(seed, *position, purpose="noise")
    t = int(draw.integers(denoiser.num_train_timesteps if among is None else len(among)))
    t = t if among is None else among[t]
    return t, normal_like(draw, shape), normal_like(draw, shape)


def _parts(draw: VisitDraw) -> tuple[int, torch.Tensor, torch.Tensor]:
    return draw.timestep, draw.noise, draw.vae_noise
