"""The passes that the signals need, each run once and shared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from memsieve.filtering.audit.looked_up import LookedUpReference
from memsieve.filtering.denoisers.base import Conditioning
from memsieve.filtering.denoisers.quantize import precision_of
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.signals import Predictions, measure, required_passes
from memsieve.filtering.types import Measurement
from memsieve.train.batch import Batch

__all__ = ["REFERENCE", "Scorer", "evaluating"]

REFERENCE: Final = frozenset({"ref_cond", "ref_uncond"})
"""Passes through the model before fine-tuning."""


@contextmanager
def evaluating(modules: list[torch.nn.Module]) -> Iterator[None]:
    """Dropout off while scoring, so that a signal is a function of the sample.

    ``Module.eval`` and ``train`` take milliseconds on a UNet, for their walk and for torch's checks of an assignment;
    this goes by the list.
    """
    trained = [module for module in modules if module.training]
    for module in trained:
        module.__dict__["training"] = False
    try:
        yield
    finally:
        for module in trained:
            module.__dict__["training"] = True


class Scorer:
    """Measures batches with the model in training and, where a signal needs it, the frozen reference.

    Args:
        denoiser: the model family's adapter.
        pair_filter: says which passes are needed.
        model: what extra passes go through: the engine where parameters are sharded, else the bare model.
        reference: the model before fine-tuning, a frozen copy or ``AdapterOff``; needed by ``reference_residual``,
            ``reference_ratio`` and ``magnitude_ratio``.
        looked_up: what audits measured of it; stands in for ``reference`` where a row was noised by an audit's draw.
    """

    def __init__(
        self,
        denoiser: Any,
        pair_filter: MemorizationFilter,
        model: torch.nn.Module,
        reference: torch.nn.Module | None,
        looked_up: LookedUpReference | None = None,
    ) -> None:
        self.denoiser, self.filter, self.model, self.reference = denoiser, pair_filter, model, reference
        self.looked_up = looked_up
        self._modules = list(model.modules())

    def measure(
        self,
        batch: Batch,
        prediction: torch.Tensor | None = None,
        passes: frozenset[str] | None = None,
        signals: tuple[str, ...] | None = None,
        reference: dict[str, torch.Tensor] | None = None,
    ) -> Measurement:
        """All signals of a batch; ``prediction`` is the training forward's own, reused as the conditional pass.

        ``signals`` limits the measurement to what decides (held-out pairs need no more); ``reference`` is what
        ``reference_values`` said of this batch before, and stands for a pass. Of a batch with a plan, the
        planned rows are measured, the others are NaN. Of other batches extra passes leave out the rows that they say
        nothing of: what takes such a pass is NaN there.
        """
        needed = self.filter.passes if passes is None else passes
        names = self.filter.config.measured if signals is None else signals
        table = reference or self._table(batch)
        if table and (self.reference is None or batch.plan is None):
            needed = needed - REFERENCE
        with torch.no_grad(), evaluating(self._modules):
            if prediction is None:
                prediction = self._predict(self.model, batch, batch.conditioning)
            cond = self._epsilon(prediction.detach(), batch)
            if batch.plan is not None:
                return self._planned(batch, cond, table, needed, names)
            return self._unplanned(batch, cond, table, needed, names)

    def reference_values(self, batch: Batch, passes: frozenset[str]) -> dict[str, torch.Tensor]:
        """``loss`` and ``magnitude`` [B] of the reference, by those of ``passes`` that go through it; a magnitude
        that takes a pass too many is NaN."""
        with torch.no_grad(), evaluating(self._modules):  # the reference may be the model, its adapter off
            found = self._predictions(batch, batch.noise, {}, passes & REFERENCE)
        unknown = torch.full((len(batch.visits),), float("nan"), device=batch.noise.device)
        return {name: _filled(unknown, found, name) for name in ("loss", "magnitude")}

    def _unplanned(
        self,
        batch: Batch,
        cond: torch.Tensor,
        table: dict[str, torch.Tensor],
        needed: frozenset[str],
        names: tuple[str, ...],
    ) -> Measurement:
        """What takes no pass for all rows, the rest for those that it says something of."""
        free = tuple(name for name in names if not required_passes([name]) & needed)
        signals = measure(free, self._predictions(batch, cond, table, frozenset()))
        for paid, rows, passes in self._jobs(batch, tuple(n for n in names if n not in free), needed):
            index = torch.tensor(rows, device=cond.device)
            part_table = {name: value[index] for name, value in table.items()}
            predictions = self._predictions(_part(batch, index), cond[index], part_table, passes)
            values = measure(paid, predictions)
            signals |= {name: _spread(value, index, len(batch.visits)) for name, value in values.items()}
        return _measurement({name: signals[name] for name in names}, batch)

    def _jobs(
        self, batch: Batch, names: tuple[str, ...], needed: frozenset[str]
    ) -> list[tuple[tuple[str, ...], list[int], frozenset[str]]]:
        """(signals, the rows that they are measured of, passes): what decides, of rows that are evidence; what is
        recorded, also of those beyond ``max_timestep``; together where they share a pass. At least one row each, so
        that the number of forwards does not depend on the data."""
        deciding = tuple(name for name in names if name in self.filter.config.deciding)
        recorded = tuple(name for name in names if name not in deciding)
        evidence, readable = ([i for i, ok in enumerate(flags) if ok] for flags in (batch.usable, batch.readable))
        parts = [(recorded, readable), (deciding, evidence)]
        if recorded and required_passes(deciding) & required_passes(recorded) & needed:
            parts = [(names, readable)]
        return [(some, rows or [0], required_passes(some) & needed) for some, rows in parts if some]

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
        names: tuple[str, ...],
    ) -> Measurement:
        """The planned rows: some by the training forward and the table alone, some by a sub-batch of a fixed shape."""
        plan = batch.plan
        assert plan is not None
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
            for name, value in measure(names, predictions).items():
                values[name][index[: len(rows)]] = value[: len(rows)].to(cond.device)
        return _measurement(values, batch)

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
        dtype = torch.float32 if model is self.model else precision_of(model)
        states = states.to(dtype=dtype)
        output: torch.Tensor = self.denoiser.predict(model, batch.noisy.to(dtype), batch.timesteps, states)
        return output

    def _epsilon(self, prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
        epsilon: torch.Tensor = self.denoiser.to_epsilon(prediction, batch.noisy, batch.timesteps)
        return epsilon


def _measurement(signals: dict[str, torch.Tensor], batch: Batch) -> Measurement:
    """What a batch reads. Which rows are evidence was settled when they were drawn and encoded; of a batch with a plan,
    those that it leaves out are not."""
    drawn = None if batch.plan is None else np.array(batch.plan.drawn, dtype=bool)
    usable, readable = (np.array(flags, dtype=bool) for flags in (batch.usable, batch.readable))
    if drawn is not None:
        usable, readable = usable & drawn, readable & drawn
    return Measurement(signals, batch.timesteps.cpu().numpy().astype(np.int64), usable, drawn, readable)


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


def _spread(values: torch.Tensor, index: torch.Tensor, count: int) -> torch.Tensor:
    """``values`` at ``index`` of [count], NaN elsewhere."""
    whole = torch.full((count,), float("nan"), device=values.device)
    whole[index] = values
    return whole


def _filled(table: torch.Tensor, predictions: Predictions, name: str) -> torch.Tensor:
    """What was looked up, and what the frozen copy says where nothing was."""
    if predictions.ref_cond is None or (name == "magnitude" and predictions.ref_uncond is None):
        return table
    other = predictions.noise if name == "loss" else predictions.ref_uncond
    assert other is not None
    apart = (predictions.ref_cond.float() - other.float()).flatten(1)
    value = apart.square().mean(1) if name == "loss" else apart.norm(dim=1)
    return torch.where(torch.isfinite(table), table, value)
