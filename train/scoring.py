"""The passes that the signals need, each run once and shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from filtering.filter import Measurement, MemorizationFilter
from filtering.signals import Predictions
from train.batches import Batch

__all__ = ["Scorer", "frozen_copy"]


def frozen_copy(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The model before fine-tuning, detached from it, in ``dtype``."""
    import copy

    return copy.deepcopy(model).to(dtype).requires_grad_(False).eval()


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off while scoring, so that a signal is a function of the sample."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class Scorer:
    """Measures batches with the model in training and, where a signal needs it, the frozen reference.

    Args:
        denoiser: the model family's adapter.
        filter: says which passes are needed.
        model: what extra passes go through: the engine where parameters are sharded, else the bare model.
        reference: the model before fine-tuning; needed by ``reference_ratio`` and ``magnitude_ratio``.
    """

    def __init__(
        self,
        denoiser: Any,
        filter: MemorizationFilter,
        model: torch.nn.Module,
        reference: torch.nn.Module | None,
    ) -> None:
        self.denoiser, self.filter, self.model, self.reference = denoiser, filter, model, reference

    def measure(
        self,
        batch: Batch,
        prediction: torch.Tensor | None = None,
        passes: frozenset[str] | None = None,
        signals: tuple[str, ...] | None = None,
    ) -> Measurement:
        """All signals of a batch; ``prediction`` is the training forward's own, reused as the conditional pass.

        ``signals`` limits the measurement to what decides (held-out pairs need no more).
        """
        needed = self.filter.passes if passes is None else passes
        with torch.no_grad(), _evaluating(self.model):
            if prediction is None:
                prediction = self._predict(self.model, batch, batch.conditioning)
            predictions = Predictions(
                noise=batch.noise,
                cond=self._epsilon(prediction.detach(), batch),
                uncond=self._pass("uncond", needed, batch, reference=False, conditional=False),
                ref_cond=self._pass("ref_cond", needed, batch, reference=True, conditional=True),
                ref_uncond=self._pass("ref_uncond", needed, batch, reference=True, conditional=False),
            )
        return self.filter.measure(predictions, batch.timesteps, batch.scored, signals)

    def _pass(
        self, name: str, needed: frozenset[str], batch: Batch, *, reference: bool, conditional: bool
    ) -> torch.Tensor | None:
        if name not in needed:
            return None
        model = self.reference if reference else self.model
        if model is None:
            raise ValueError("a signal compares with the model before fine-tuning, and no reference was given")
        states = batch.conditioning if conditional else self.denoiser.unconditional(len(batch.visits))
        return self._epsilon(self._predict(model, batch, states), batch)

    def _predict(self, model: torch.nn.Module, batch: Batch, states: torch.Tensor) -> torch.Tensor:
        dtype = torch.float32 if model is self.model else next(model.parameters()).dtype
        output: torch.Tensor = self.denoiser.predict(model, batch.noisy.to(dtype), batch.timesteps, states.to(dtype))
        return output

    def _epsilon(self, prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
        epsilon: torch.Tensor = self.denoiser.to_epsilon(prediction, batch.noisy, batch.timesteps)
        return epsilon
