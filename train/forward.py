"""The training forward of a batch: rows that have weight 0 before it go through without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from memsieve.filtering.denoisers.base import Call

__all__ = ["predict_in_training", "worth_a_forward"]

APART: Final = 0.25
"""Share of settled rows from which they go by themselves: a forward more costs what starting one does, an eighth of a
forward of 16 rows on a CPU, and each row saves a backward, two forwards of it."""


def worth_a_forward(settled: float, rows: int) -> bool:
    """Whether ``settled`` of ``rows``, both of all ranks, are enough to go through a forward without gradients."""
    return settled >= APART * rows


def predict_in_training(
    denoiser: Any, model: torch.nn.Module, plain: torch.nn.Module, call: Call, settled: Sequence[bool] | None
) -> torch.Tensor:
    """The prediction of what is trained on [B, C, h, w], with its graph.

    Args:
        denoiser: the model family's adapter.
        model: as it is trained.
        plain: what forwards without gradients go through.
        call: noised rows, their timesteps and conditioning.
        settled: rows [B] of which no gradient is needed, which go by themselves; None where all go together, the same
            on all ranks. At least one row goes each way, so that the number of forwards does not depend on a rank's own
            rows.
    """
    noisy, timesteps, conditioning = call
    if settled is None:
        whole: torch.Tensor = denoiser.predict(model, noisy, timesteps, conditioning)
        return whole
    ways = [[i for i, over in enumerate(settled) if over is way] or [0] for way in (False, True)]
    training, others = (torch.tensor(rows, device=noisy.device) for rows in ways)
    # with gradients first: autocast keeps the weights that it has cast, and would keep them without
    learned = _predict(denoiser, model, call, training)
    with torch.no_grad():
        read = _predict(denoiser, plain, call, others).to(learned.dtype)
    empty = torch.zeros(len(noisy), *learned.shape[1:], dtype=learned.dtype, device=learned.device)
    return empty.index_copy(0, others, read).index_copy(0, training, learned)


def _predict(denoiser: Any, model: torch.nn.Module, call: Call, index: torch.Tensor) -> torch.Tensor:
    noisy, timesteps, conditioning = call
    output: torch.Tensor = denoiser.predict(model, noisy[index], timesteps[index], conditioning.rows(index))
    return output
