"""From drawn visits to the tensors of one forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.filtering.schedule import WindowPlan
from memsieve.filtering.types import Visit
from memsieve.train.visits import DrawnVisit

__all__ = ["Batch", "BatchPlan", "Encoded", "build_batch", "build_batches", "encode"]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What is measured of a batch: rows ``drawn`` [B], those of them that are ``paid`` for by extra forwards [B],
    whether such forwards are run (on all ranks alike), and their rows."""

    drawn: list[bool]
    paid: list[bool]
    forward: bool
    shape: int

    @classmethod
    def of(cls, plan: WindowPlan, number: int, size: int) -> BatchPlan:
        """The part of a window's plan that is about its batch ``number``, of ``size`` rows."""
        rows = slice(number * size, (number + 1) * size)
        drawn = [visit >= 0 for visit in plan.visits[rows]]
        return cls(drawn, plan.paid[rows], plan.forwards[number], plan.shape)


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward's worth of samples on the device.

    ``valid`` is False for padding and for samples whose input is not finite (``bad``): they are replaced by zeros,
    train with weight 0 and count as nothing. Of those that are valid, ``captioned`` is False where the caption was
    dropped in this visit; ``readable`` also where epsilon space says nothing at this t; ``usable``, what is evidence,
    also where ``filter.max_timestep`` is passed. ``settled``: the row has weight 0 before it is measured, and is no
    evidence. All are [B] lists on the host. ``draws`` [B] are the numbers of the audit's draws that rows were noised
    by, -1 where by their position; ``plan`` is None where all is measured. ``prior`` are class pictures that are
    trained on beside it, where there are any.
    """

    visits: list[Visit]
    valid: list[bool]
    captioned: list[bool]
    readable: list[bool]
    usable: list[bool]
    settled: list[bool]
    bad: list[Visit]
    latents: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    noisy: torch.Tensor
    conditioning: Conditioning
    draws: list[int]
    plan: BatchPlan | None = None
    prior: Batch | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the frozen parts make of rows: the VAE's posterior, and the conditioning of their captions."""

    posterior: tuple[torch.Tensor, torch.Tensor]
    conditioning: Conditioning


def encode(denoiser: Any, pixels: Sequence[torch.Tensor], captions: Sequence[str]) -> Encoded:
    """Encode images, each [3, H, W], and captions; once for pairs that come again with the same ones."""
    return Encoded(denoiser.posterior(torch.stack(list(pixels))), denoiser.conditioning(list(captions)))


def build_batches(
    denoiser: Any,
    visits: Sequence[DrawnVisit],
    plan: WindowPlan | None,
    size: int,
    settled: Sequence[bool] | None = None,
) -> list[Batch]:
    """A window's visits in batches of ``size``; ``settled`` as in ``build_batch``."""
    starts = range(0, len(visits), size)
    return [
        build_batch(
            denoiser,
            visits[start : start + size],
            plan=BatchPlan.of(plan, number, size) if plan is not None else None,
            settled=settled[start : start + size] if settled is not None else None,
        )
        for number, start in enumerate(starts)
    ]


def build_batch(
    denoiser: Any,
    visits: Sequence[DrawnVisit],
    encoded: Encoded | None = None,
    plan: BatchPlan | None = None,
    settled: Sequence[bool] | None = None,
) -> Batch:
    """Encode ``visits``, stack what was drawn for them, and noise them.

    Args:
        denoiser: the model family's adapter.
        encoded: the visits' own images and captions, where they were encoded before.
        plan: what is measured of them.
        settled: which of them have weight 0 whatever is measured; None where none has.
    """
    device = denoiser.device
    samples = [visit.sample for visit in visits]
    times = denoiser.timesteps_at(torch.tensor([visit.timestep for visit in visits], device=device))
    noise = torch.stack([visit.noise for visit in visits]).to(device)
    if encoded is None:
        encoded = encode(denoiser, [s.pixels for s in samples], [s.caption for s in samples])
    latents = denoiser.sample_latents(encoded.posterior, torch.stack([visit.vae_noise for visit in visits]))
    finite = torch.isfinite(latents).flatten(1).all(1).tolist()
    latents = torch.where(torch.tensor(finite, device=device).view(-1, 1, 1, 1), latents, torch.zeros_like(latents))
    valid = [s.present and s.finite and ok for s, ok in zip(samples, finite, strict=True)]
    over = [False] * len(visits) if settled is None else list(settled)
    return Batch(
        visits=[s.visit for s in samples],
        valid=valid,
        captioned=[bool(s.caption) and ok for s, ok in zip(samples, valid, strict=True)],
        readable=[visit.readable and ok for visit, ok in zip(visits, valid, strict=True)],
        usable=[visit.usable and ok and not out for visit, ok, out in zip(visits, valid, over, strict=True)],
        settled=over,
        bad=_bad(visits, finite),
        latents=latents,
        noise=noise,
        timesteps=times,
        noisy=denoiser.add_noise(latents, _perturbed(noise, visits), times),
        conditioning=encoded.conditioning.to(dtype=torch.float32),
        draws=[visit.draw for visit in visits],
        plan=plan,
    )


def _bad(visits: Sequence[DrawnVisit], finite: Sequence[bool]) -> list[Visit]:
    """Whose image, and then whose latent, is not finite."""
    samples = [visit.sample for visit in visits]
    images = [s.visit for s in samples if not s.finite]
    return images + [s.visit for s, ok in zip(samples, finite, strict=True) if s.present and s.finite and not ok]


def _perturbed(noise: torch.Tensor, visits: Sequence[DrawnVisit]) -> torch.Tensor:
    """The noise that x_t holds, [B, C, h, w]."""
    added = [visit.perturbation for visit in visits if visit.perturbation is not None]
    return noise + torch.stack(added).to(noise.device) if added else noise
