"""What passes between a training loop and the filter: what a batch reads, and what is decided about it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from memsieve.filtering.policy import KEPT_FLOOR
from memsieve.filtering.types import Verdict

__all__ = ["Decision", "Measurement", "finite_rows"]


@dataclass(slots=True)
class Measurement:
    """What one batch reads: raw signals (name -> [B] float32), timesteps [B], and which rows are evidence [B]."""

    signals: dict[str, torch.Tensor]
    timesteps: npt.NDArray[np.int64]
    usable: npt.NDArray[np.bool_]
    drawn: npt.NDArray[np.bool_] | None = None
    """Rows that the schedule had measured [B]; None where nothing was scheduled."""
    readable: npt.NDArray[np.bool_] | None = None
    """Rows whose signals mean something [B]: evidence, and beside it those beyond ``filter.max_timestep``; None where
    they are the same."""

    def says_something(self, row: int) -> bool:
        """Whether the signals of ``row`` mean something, evidence or not."""
        return bool((self.usable if self.readable is None else self.readable)[row])


@dataclass(slots=True)
class Decision:
    """Weights [B] (float32, on the losses' device), the verdicts they come from, and the samples' ``keys`` [B]."""

    weights: torch.Tensor
    verdicts: list[Verdict]
    normalize: str = "eligible"
    keys: list[str] = field(default_factory=list)

    def reduce(self, losses: torch.Tensor) -> torch.Tensor:
        """Weighted mean of ``losses`` ([B] or [B, ...]) of one process and one batch; a scalar.

        Divides by B (``eligible``) or by the sum of weights (``kept``, the paper's). A dropped sample's loss does not
        enter the value, not even as 0 * inf. Its gradient is another matter: behind a loss that is not finite lie
        values that are not, and 0 times their derivatives is NaN, in every weight. Nothing done to the loss helps, so
        with gradients it is refused; what helps is ``finite_rows``, before the forward.

        Raises:
            FloatingPointError: a kept sample's loss is not finite, or, where losses have gradients, a dropped one's.
        """
        per_sample = losses.flatten(1).mean(1) if losses.ndim > 1 else losses
        weights = self.weights.to(per_sample.device)
        lost = ~torch.isfinite(per_sample.detach())
        self._refuse(lost if per_sample.requires_grad else lost & (weights > 0))
        kept = torch.where(weights > 0, per_sample, torch.zeros_like(per_sample)) * weights
        count = weights.sum().clamp_min(KEPT_FLOOR) if self.normalize == "kept" else len(per_sample)
        return kept.sum() / count

    def _refuse(self, lost: torch.Tensor) -> None:
        rows = torch.nonzero(lost).flatten().tolist()
        if not rows:
            return
        names = ", ".join(f"'{self.keys[row]}'" if self.keys else f"row {row}" for row in rows[:8])
        raise FloatingPointError(
            f"the loss of {len(rows)} sample(s) is not finite: {names}; their gradients would be NaN, and all weights "
            "with them, even at weight 0. Where the input is not finite, cut it before the forward: valid, (latents,) "
            "= finite_rows(latents), and decide(visits, measured, valid); where only the loss is, lower the learning "
            "rate or train in float32"
        )


def finite_rows(*inputs: torch.Tensor) -> tuple[list[bool], list[torch.Tensor]]:
    """(which samples are finite in all of ``inputs``, each [B, ...]; the inputs with the others' rows zeroed).

    For inputs of the forward, before it: what is NaN in there cannot be taken out of the gradient afterwards. Give
    ``decide`` the first as ``valid``: the others get weight 0, and so no gradient, exactly.
    """
    finite = torch.stack([torch.isfinite(tensor).flatten(1).all(1) for tensor in inputs]).all(0)
    shapes = [(-1, *[1] * (tensor.ndim - 1)) for tensor in inputs]
    whole = [
        torch.where(finite.view(shape), tensor, torch.zeros_like(tensor))
        for tensor, shape in zip(inputs, shapes, strict=True)
    ]
    return finite.tolist(), whole
