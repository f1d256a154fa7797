"""Random draws that depend on what they are for, never on the rank, worker or order that makes them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["VisitDraw", "normal_like", "row_generator", "visit_draw"]


def row_generator(seed: int, *parts: int | str, purpose: str) -> np.random.Generator:
    """A counter-based generator keyed by ``seed``, ``parts`` (a row's stream, epoch, offset) and ``purpose``.

    The same arguments give the same draws on every machine; different ones give independent draws, so a new use
    takes a new ``purpose`` and leaves the others as they were.
    """
    # JSON keeps (1, 23) apart from (12, 3), and 1 apart from "1".
    name = json.dumps([purpose, seed, *parts]).encode()
    key = hashlib.blake2b(name, digest_size=16, person=b"memsieve").digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def normal_like(generator: np.random.Generator, shape: tuple[int, ...] | torch.Size) -> torch.Tensor:
    """Standard normal float32 tensor of ``shape``, on the CPU so that every device gets the same values."""
    return torch.from_numpy(generator.standard_normal(size=(*shape, 1), dtype=np.float32)).reshape(tuple(shape))


@dataclass(frozen=True, slots=True)
class VisitDraw:
    """What one scored visit of a pair draws: its timestep, its noise, and the noise of its VAE sample (float32)."""

    timestep: int
    noise: torch.Tensor
    vae_noise: torch.Tensor


def visit_draw(
    seed: int, content: str, visit: int, *, shape: tuple[int, ...], num_train_timesteps: int, strata: int
) -> VisitDraw:
    """The draw of visit ``visit`` (0, 1, ...) of the pair whose image is ``content``: a function of the arguments.

    Timesteps are stratified: each run of ``strata`` visits takes each of ``strata`` equal parts of
    [0, ``num_train_timesteps``) once, in an order drawn for the pair, so that a few visits cover t and every visit
    taken alone is uniform. An offline audit and a training run that draw by the same arguments meet at the same
    (x_t, eps, t), whatever shard, order or rank the pair comes from.

    Args:
        content: ``content_id`` of the encoded image.
        shape: of one latent, (C, h, w).
        strata: parts that t is divided into, at least 1.
    """
    order = row_generator(seed, content, visit // strata, purpose="visit strata").permutation(strata)
    generator = row_generator(seed, content, visit, purpose="visit")
    place = (int(order[visit % strata]) + float(generator.random())) / strata
    timestep = min(int(place * num_train_timesteps), num_train_timesteps - 1)
    return VisitDraw(timestep, normal_like(generator, shape), normal_like(generator, shape))
