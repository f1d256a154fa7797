"""The passes that the signals need, each run once and shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from filtering.decision import Measurement
from filtering.denoisers.base import Conditioning
from filtering.filter import MemorizationFilter
from filtering.reference import LookedUpReference
from filtering.signals import Predictions
from train.batches import Batch

__all__ = ["Scorer", "frozen_copy"]

_REFERENCE: Final = frozenset({"ref_cond", "ref_uncond"})


def frozen_copy(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The model before fine-tuning, detached from it, in ``dtype``."""
    import copy

    copied = copy.deepcopy(model).requires_grad_(False).eval()
    return copied if next(copied.parameters()).dtype == dtype else copied.to(dtype)


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
        looked_up: what audits measured of it; stands in for ``reference`` where a row was noised by an audit's draw.
    """

    def __init__(
        self,
        denoiser: Any,
        filter: MemorizationFilter,
        model: torch.nn.Module,
        reference: torch.nn.Module | None,
        looked_up: LookedUpReference | None = None,
    ) -> None:
        self.denoiser, self.filter, self.model, self.reference = denoiser, filter, model, reference
        self.looked_up = looked_up

    def measure(
        self,
        batch: Batch,
        prediction: torch.Tensor | None = None,
        passes: frozenset[str] | None = None,
        signals: tuple[str, ...] | None = None,
    ) -> Measurement:
        """All signals of a batch; ``prediction`` is the training forward's own, reused as the conditional pass.

        ``signals`` limits the measurement to what decides (held-out pairs need no more). Of a batch with a plan, the
        planned rows are measured, the others are NaN.
        """
        needed = self.filter.passes if passes is None else passes
        table = self._table(batch)
        if table and (self.reference is None or batch.plan is None):
            needed = needed - _REFERENCE
        with torch.no_grad(), _evaluating(self.model):
            if prediction is None:
                prediction = self._predict(self.model, batch, batch.conditioning)
            cond = self._epsilon(prediction.detach(), batch)
            if batch.plan is not None:
                return self._planned(batch, cond, table, needed, signals)
            predictions = self._predictions(batch, cond, table, needed)
        return self.filter.measure(predictions, batch.timesteps, batch.scored, signals)

    def _predictions(
        self, batch: Batch, cond: torch.Tensor, table: dict[str, torch.Tensor], needed: frozenset[str]
    ) -> Predictions:
        """Every pass that is needed, each once; what was looked up stands before what is predicted."""
        predictions = Predictions(
            noise=batch.noise,
            cond=cond,
            uncond=self._pass("uncond", needed, batch, reference=False, conditional=False),
            ref_cond=self._pass("ref_cond", needed, batch, reference=True, conditional=True),
            ref_uncond=self._pass("ref_uncond", needed, batch, reference=True, conditional=False),
        )
        for name in table:
            setattr(predictions, f"ref_{name}", _filled(table[name], predictions, name))
        return predictions

    def _planned(
        self,
        batch: Batch,
        cond: torch.Tensor,
        table: dict[str, torch.Tensor],
        needed: frozenset[str],
        signals: tuple[str, ...] | None,
    ) -> Measurement:
        """The planned rows: some by the training forward and the table alone, some by a sub-batch of a fixed shape."""
        plan = batch.plan
        assert plan is not None
        names = signals or self.filter.config.measured
        values = {name: torch.full((len(plan.drawn),), float("nan"), device=cond.device) for name in names}
        free = [i for i, drawn in enumerate(plan.drawn) if drawn and not plan.paid[i]]
        paid = [i for i, is_paid in enumerate(plan.paid) if is_paid]
        jobs = [(free, free, frozenset[str]())] if free else []
        if plan.forward:
            jobs.append((paid, [*paid, *[0] * (plan.shape - len(paid))], needed))
        for rows, chosen, passes in jobs:
            index = torch.tensor(chosen, device=cond.device)
            part_table = {name: value[index] for name, value in table.items()}
            predictions = self._predictions(_part(batch, index), cond[index], part_table, passes)
            for name, value in self.filter.measure(predictions, batch.timesteps[index], None, names).signals.items():
                values[name][index[: len(rows)]] = value[: len(rows)].to(cond.device)
        drawn = np.array(plan.drawn, dtype=bool)
        usable = np.array(batch.scored, dtype=bool) & drawn
        return Measurement(values, batch.timesteps.cpu().numpy().astype(np.int64), usable, drawn)

    def _table(self, batch: Batch) -> dict[str, torch.Tensor]:
        """``loss`` and ``magnitude`` of the reference, [B], NaN where not looked up; empty without such a reference."""
        if self.looked_up is None:
            return {}
        contents, captions = zip(*[(visit.group, visit.caption) for visit in batch.visits], strict=True)
        found = self.looked_up.look_up(contents, captions, batch.draws)
        return {name: torch.from_numpy(found[name]).to(batch.noise.device) for name in ("loss", "magnitude")}

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

    def _predict(self, model: torch.nn.Module, batch: Batch, states: Conditioning) -> torch.Tensor:
        dtype = torch.float32 if model is self.model else next(model.parameters()).dtype
        states = states.to(dtype=dtype)
        output: torch.Tensor = self.denoiser.predict(model, batch.noisy.to(dtype), batch.timesteps, states)
        return output

    def _epsilon(self, prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
        epsilon: torch.Tensor = self.denoiser.to_epsilon(prediction, batch.noisy, batch.timesteps)
        return epsilon


def _part(batch: Batch, index: torch.Tensor) -> Batch:
    """Rows of a batch as a batch, for passes that go through a model."""
    rows = index.tolist()
    return replace(
        batch,
        visits=[batch.visits[i] for i in rows],
        noise=batch.noise[index],
        timesteps=batch.timesteps[index],
        noisy=batch.noisy[index],
        conditioning=batch.conditioning.rows(index),
    )


def _filled(table: torch.Tensor, predictions: Predictions, name: str) -> torch.Tensor:
    """What was looked up, and what the frozen copy says where nothing was."""
    if predictions.ref_cond is None or (name == "magnitude" and predictions.ref_uncond is None):
        return table
    other = predictions.noise if name == "loss" else predictions.ref_uncond
    assert other is not None
    apart = (predictions.ref_cond.float() - other.float()).flatten(1)
    value = apart.square().mean(1) if name == "loss" else apart.norm(dim=1)
    return torch.where(torch.isfinite(table), table, value)
