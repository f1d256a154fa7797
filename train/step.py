"""One window: the batches of one optimizer step, measured, weighted and trained.

The rules that keep N ranks equal to one process: nothing branches on data in a way that changes the number of
collectives; weights decide, and rows whose weight is 0 beforehand are left out of the backward alone; one denominator
for the whole window over all ranks; a step is skipped by all ranks or by none.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object

from memsieve.filtering.denoisers.conditioning import Conditioning
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.types import KEPT_FLOOR, Decision, Verdict
from memsieve.train.batch import Batch
from memsieve.train.config import RunConfig
from memsieve.train.forward import predict_in_training, worth_a_forward
from memsieve.train.measure import Scorer
from memsieve.train.network import drops_out

__all__ = ["NonFiniteError", "WindowResult", "WindowTrainer"]


class NonFiniteError(RuntimeError):
    """A loss is not finite although its input was; the run stops before the update."""


@dataclass(slots=True)
class WindowResult:
    """What one window did. Losses are means over all ranks; ``skipped`` says that no optimizer step was taken."""

    loss: float
    loss_unfiltered: float
    eligible: int
    kept: float
    grad_norm: float
    skipped: bool
    verdicts: list[Verdict] = field(default_factory=list)
    prior_loss: float = math.nan


class WindowTrainer:
    """Trains windows.

    Args:
        accelerator, model, optimizer: as prepared.
        denoiser: the model family's adapter.
        scorer: measures, and holds the filter that decides; None trains unfiltered.
        exchange: collectives over ranks.
        config: of the run: Min-SNR weighting (``train.snr_gamma``), the norm that gradients are clipped to
            (``optimizer.max_grad_norm``).
    """

    def __init__(
        self,
        accelerator: Any,
        model: torch.nn.Module,
        optimizer: Any,
        denoiser: Any,
        scorer: Scorer | None,
        exchange: Exchange,
        config: RunConfig,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.denoiser, self.scorer, self.exchange = denoiser, scorer, exchange
        self.filter = scorer.filter if scorer is not None else None
        self.snr_gamma, self.max_grad_norm = config.train.snr_gamma, config.optimizer.max_grad_norm
        self.prior_weight = config.prior.weight
        self._measures = not drops_out(model)

    def train(self, batches: list[Batch]) -> WindowResult:
        """One optimizer step over ``batches``, or none where every sample was dropped.

        Raises:
            NonFiniteError: on all ranks, before the update.
        """
        eligible, apart = self._agree(batches)
        if self.filter is not None and not self.filter.begun:
            self.filter.begin_window([visit for batch in batches for visit in batch.visits])
        decisions = self._score_first(batches)
        kept = self._kept(decisions) if decisions else None
        beside = 0.0 if any(batch.prior is not None for batch in batches) else math.nan
        # weighted loss, plain loss, weights, non-finite losses, mean loss of class pictures
        totals = torch.tensor([0.0, 0.0, 0.0, 0.0, beside], dtype=torch.float64)
        names: list[str] = []
        losses: torch.Tensor
        for i, batch in enumerate(batches):
            last = i == len(batches) - 1
            self.accelerator.sync_gradients = last
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                losses, prediction = self._losses(batch, apart[i])
                losses, prior = losses.tensor_split([len(batch.visits)])
                if len(decisions) <= i:
                    decisions.append(self._decide(batch, prediction))
                weights = decisions[i].weights.to(losses.device)
                totals[:4] += self._count(batch, losses, weights, names)
                if batch.prior is not None:
                    totals[3:] += self._count_prior(prior, len(batches), names)
                if last:
                    totals = torch.tensor(self.exchange.sum(totals.tolist()), dtype=torch.float64)
                    self._refuse_non_finite(int(totals[3]), names)
                    if totals[2] < KEPT_FLOOR and batch.prior is None:
                        return self._skip(eligible, totals, decisions)
                weighted = torch.where(weights > 0, losses, torch.zeros_like(losses)) * weights
                divisor = self._divisor(eligible, float(totals[2]) if kept is None else kept)
                # backward divides by the accumulation, and the engine by the ranks
                loss = weighted.sum() * (self.exchange.world_size * len(batches) / divisor)
                self.accelerator.backward(loss if batch.prior is None else loss + self.prior_weight * prior.mean())
        norm, overflow = self._step()
        return self._result(eligible, totals, decisions, norm, skipped=overflow)

    def _agree(self, batches: list[Batch]) -> tuple[int, list[bool]]:
        """(samples that can be trained on, on all ranks; of which batches settled rows go by themselves); one
        collective."""
        mine: list[float] = [sum(sum(batch.valid) for batch in batches)]
        eligible, *settled = self.exchange.sum([*mine, *(float(sum(batch.settled)) for batch in batches)])
        rows = [len(batch.visits) * self.exchange.world_size for batch in batches]
        # what drops out draws anew in each forward, and is measured by one of its own
        return int(eligible), [
            self._measures and worth_a_forward(count, of) for count, of in zip(settled, rows, strict=True)
        ]

    def _score_first(self, batches: list[Batch]) -> list[Decision]:
        """The paper's mean over kept samples needs the weights of the whole window before the first backward."""
        if self.filter is None or self.filter.rule.divides_by == "eligible" or len(batches) == 1:
            return []
        return [self._decide(batch, None) for batch in batches]

    def _kept(self, decisions: list[Decision]) -> float:
        """The sum of the weights of a whole window, over all ranks; a collective."""
        return float(self.exchange.sum([sum(float(decision.weights.sum()) for decision in decisions)])[0])

    def _divisor(self, eligible: int, kept: float) -> float:
        """What the sum of a window's weighted losses is divided by, the same on all ranks."""
        if self.filter is None or self.filter.rule.divides_by == "eligible":
            return max(eligible, 1)
        return max(kept, KEPT_FLOOR)

    def _losses(self, batch: Batch, apart: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Per-sample loss [B + P] float32 with its graph, those of P class pictures last, and the prediction of the
        others. One forward for both: an engine takes one a backward. With ``apart``, settled rows go by themselves."""
        parts = [batch] if batch.prior is None else [batch, batch.prior]
        noisy, times, latents, noise = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("noisy", "timesteps", "latents", "noise")
        )
        call = noisy, times, Conditioning.cat([part.conditioning for part in parts])
        settled = [*batch.settled, *[False] * (len(noisy) - len(batch.settled))] if apart else None
        plain = self.scorer.model if self.scorer is not None else self.model
        with self.accelerator.autocast():
            prediction = predict_in_training(self.denoiser, self.model, plain, call, settled)
        target = self.denoiser.target(latents, noise, times)
        losses = (prediction.float() - target.float()).square().flatten(1).mean(1)
        if self.snr_gamma is not None:
            losses = losses * self._min_snr(times)
        return losses, prediction[: len(batch.visits)]

    def _min_snr(self, timesteps: torch.Tensor) -> torch.Tensor:
        """Min-SNR weight per sample (Hang et al., ICCV 2023): min(SNR, gamma) / SNR, or / (SNR + 1) for v."""
        assert self.snr_gamma is not None
        snr = self.denoiser.snr(timesteps)
        weight: torch.Tensor = snr.clamp(max=self.snr_gamma)
        if self.denoiser.prediction_type == "epsilon":
            return weight / snr
        return weight / (snr + 1.0) if self.denoiser.prediction_type == "v_prediction" else weight

    def _decide(self, batch: Batch, prediction: torch.Tensor | None) -> Decision:
        if self.filter is None or self.scorer is None:
            valid = torch.tensor(batch.valid, dtype=torch.float32)
            return Decision(valid, [])
        with self.accelerator.autocast():  # held-out pairs are measured without dropout, so these must be too
            measurement = self.scorer.measure(batch, prediction if self._measures else None)
        return self.filter.decide(batch.visits, measurement, batch.valid)

    def _count(self, batch: Batch, losses: torch.Tensor, weights: torch.Tensor, names: list[str]) -> torch.Tensor:
        plain = losses.detach().double().cpu()
        valid = torch.tensor(batch.valid)
        finite = torch.isfinite(plain)
        for i in torch.nonzero(valid & ~finite).flatten().tolist():
            names.append(f"{batch.visits[i].shard}:{batch.visits[i].key} (t = {int(batch.timesteps[i])})")
        usable = torch.where(valid & finite, plain, torch.zeros_like(plain))
        w = weights.detach().double().cpu()
        return torch.stack([(usable * w).sum(), usable.sum(), w.sum(), (valid & ~finite).sum().double()])

    def _count_prior(self, losses: torch.Tensor, batches: int, names: list[str]) -> torch.Tensor:
        """Those of class pictures that are not finite, and their mean's share in the window's."""
        plain = losses.detach().double().cpu()
        broken = (~torch.isfinite(plain)).sum().double()
        if broken:
            names.append("class pictures (prior.prompts)")
        return torch.stack([broken, plain.mean() / (batches * self.exchange.world_size)])

    def _refuse_non_finite(self, count: int, names: list[str]) -> None:
        if count:
            where = ", ".join(gather_object(names)[:8])
            raise NonFiniteError(
                f"the loss of {count} sample(s) is not finite although the input is: {where}. The model was not updated"
            )

    def _skip(self, eligible: int, totals: torch.Tensor, decisions: list[Decision]) -> WindowResult:
        """Everything was dropped: neither optimizer nor schedule move, on any rank.

        The last backward has not run, so DeepSpeed, which updates inside it, has not moved either. What the window's
        other batches left in its buffers are exact zeros (see ``KEPT_FLOOR``).
        """
        self.optimizer.zero_grad()
        return self._result(eligible, totals, decisions, 0.0, skipped=True)

    def _step(self) -> tuple[float, bool]:
        """Clip and update: (gradient norm, whether the loss scaler skipped the update for an overflow).

        DeepSpeed has done both inside the last backward, and has skipped the update where the norm was not finite.
        Gradients are the same on all ranks by now, so all of them raise, or none.
        """
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        value = float(norm) if norm is not None else 0.0
        if not math.isfinite(value) and self.accelerator.mixed_precision != "fp16":
            raise NonFiniteError(
                f"the gradient norm is {value} although every loss is finite. The model was not updated"
            )
        self.optimizer.step()
        overflow = bool(self.accelerator.optimizer_step_was_skipped)
        self.optimizer.zero_grad()
        return value, overflow

    def _result(
        self, eligible: int, totals: torch.Tensor, decisions: list[Decision], norm: float, skipped: bool
    ) -> WindowResult:
        weighted, plain, kept, _, beside = totals.tolist()
        count = self._divisor(eligible, kept)
        verdicts = [verdict for decision in decisions for verdict in decision.verdicts]
        return WindowResult(weighted / count, plain / max(eligible, 1), eligible, kept, norm, skipped, verdicts, beside)
