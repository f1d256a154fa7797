"""LoopFilter: what a loop of diffusers' kind needs of the filter, in one object and one call a batch.

It owns what ``MemorizationFilter`` leaves to the loop: the pass through the model before fine-tuning, the held-out
pairs, the window, the mean over all ranks, and a state that any rank can save alone. What a loop still says is which
pairs a batch holds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from memsieve.filtering.conformal import smallest_rate, smallest_reference
from memsieve.filtering.denoisers.base import EPSILON_FLOOR
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.in_loop.gathered import AllRows, Alone, gather_rows
from memsieve.filtering.in_loop.held_out import HeldOutShare, Turns
from memsieve.filtering.in_loop.noise_levels import NoiseLevels
from memsieve.filtering.in_loop.recorded import Base, Recorded
from memsieve.filtering.signals import Predictions
from memsieve.filtering.types import KEPT_FLOOR, Measurement, Verdict, Visit

__all__ = ["LoopFilter"]

_log = logging.getLogger(__name__)
_UNSHARDED: Final = "a rank holds a part of the weights, and the forward of the base needs all of them"


class LoopFilter:
    """The filter in a training loop of somebody else's: ``loss`` in place of the loop's own loss, and nothing more.

    Every pair that a batch holds is measured against the model before fine-tuning at the loop's own noise, as
    ``reference_residual``; a share of the pairs is never trained on and says what is ordinary; pairs that stand out
    get weight 0. Evidence of all ranks is kept on each, some 130 bytes a pair: for tens of millions of pairs
    ``MemorizationFilter`` shares it out.

    Args:
        model: the denoising network as the loop calls it, after ``accelerator.prepare``, with its LoRA if any.
        noise_scheduler: of the loop: what its timesteps and predictions mean.
        accelerator: of the loop. Its checkpoints then hold the filter too, and a window is what it accumulates.
            Without one, each call of ``loss`` is a window.
        held_out: share of the pairs, or the keys, that are never trained on.
        base: the model before fine-tuning: a network, or a function that returns a context within which ``model`` is
            it, for adapters that are not peft's. None: with peft's LoRA the model with it switched off, which takes no
            memory; else a frozen copy of the model as it is now.
        options: settings of the filter (``FilterConfig``).

    Raises:
        ValueError: settings that need more than the loop gives: the unconditional branch, drawings, whole weights.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        noise_scheduler: Any,
        accelerator: Any = None,
        *,
        held_out: float | Collection[str] = 0.1,
        base: Base | None = None,
        **options: Any,
    ) -> None:
        self._levels = NoiseLevels(noise_scheduler)
        self.filter = MemorizationFilter(
            num_train_timesteps=self._levels.num_train_timesteps, exchange=Alone(), **{"record": [], **options}
        )
        self._refuse(accelerator)
        bare = model if accelerator is None else accelerator.unwrap_model(model)
        bare = bare.module if isinstance(bare, torch.nn.parallel.DistributedDataParallel) else bare
        if any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in bare.modules()):
            raise ValueError(
                f"{type(bare).__name__} drops something out in training, so that its forward is no measurement: set "
                "its dropout, or its LoRA's (lora_dropout), to 0"
            )
        self._accelerator, self.exchange = accelerator, Exchange()
        autocast = nullcontext if accelerator is None else accelerator.autocast
        self._recorded = Recorded(model, bare, base, autocast)
        self._held_out, self._turns = HeldOutShare(held_out), Turns()
        self.seen, self.dropped = 0, 0
        """Visits of all ranks that could be trained on, and those of them at weight 0."""
        self.verdicts: list[Verdict] = []
        """Of this rank's rows of the last batch that are no held-out pair's."""
        if accelerator is not None:
            accelerator.register_for_checkpointing(self)

    def _refuse(self, accelerator: Any) -> None:
        config = self.filter.config
        if needs := sorted(self.filter.passes & {"uncond", "ref_uncond"}):
            raise ValueError(
                f"filter.signals {config.signals} and record {config.record} need the '{needs[0]}' prediction, of "
                "which a loop's forward has nothing: take reference_residual, reference_ratio, drift or loss, or give "
                "MemorizationFilter the predictions"
            )
        if config.rule == "recall" or config.apply == "sieve" or config.policy == "caption":
            raise ValueError(
                "filter.rule: recall, filter.apply: sieve and filter.policy: caption need the trainer (memsieve "
                "train): they draw, skip rows, or encode captions anew"
            )
        kind = getattr(getattr(accelerator, "distributed_type", None), "value", "NO")
        zero = getattr(getattr(getattr(accelerator, "state", None), "deepspeed_plugin", None), "zero_stage", 0)
        if kind in ("FSDP", "MEGATRON_LM") or (kind == "DEEPSPEED" and zero == 3):
            raise ValueError(f"{kind}: {_UNSHARDED}; use DDP or ZeRO 1 or 2, or memsieve train")

    # -- one batch ------------------------------------------------------------------------------------------------

    def loss(
        self,
        model_pred: Tensor,
        target: Tensor,
        timesteps: Tensor,
        keys: Sequence[str],
        losses: Tensor | None = None,
        usable: Sequence[bool] | None = None,
    ) -> Tensor:
        """The loss to go back from, a scalar: the mean over the pairs of all ranks that may be trained on, those at
        weight 0 counted. Call it on every rank, once for each forward of the network.

        Args:
            model_pred: what the loop compares with ``target``, made of the network's last output by whatever is linear
                (unpacking, stacking, the sign, a chunk of it), [B, ...].
            target: [B, ...].
            timesteps: in the scheduler's units, [B].
            keys: names of the pairs (``content_key``), B of them.
            losses: the loop's own loss of each pair, weighted and masked as it likes, [B]; None: the mean squared
                error. What is measured is the squared error, whatever is trained on.
            usable: False for rows that are no evidence, since their caption was dropped.

        Raises:
            ValueError: lengths that do not agree; too few held-out pairs for ``false_drop_rate``.
            FloatingPointError: on all ranks, where a loss is not finite.
        """
        count = len(model_pred)
        if not len(target) == len(timesteps) == len(keys) == count:
            raise ValueError(
                f"model_pred, target, timesteps and keys have {count}, {len(target)}, {len(timesteps)} and {len(keys)} "
                "rows; with prior preservation give the instance half of each"
            )
        if losses is None:
            losses = (model_pred.float() - target.float()).square().flatten(1).mean(1)
        elif losses.shape != (count,):
            raise ValueError(f"losses have the shape {list(losses.shape)}; one of each pair is wanted, [{count}]")
        reference = self._recorded.reference(model_pred)
        measured = self._measure(model_pred, reference, target, timesteps, usable)
        everyone = gather_rows(self.exchange, keys, measured, torch.isfinite(losses.detach()).tolist())
        _refuse_non_finite(everyone)
        trained = [i for i, key in enumerate(everyone.keys) if key not in self._held_out]
        weights = torch.zeros(len(everyone.keys))
        self.verdicts = []
        if trained:
            decision = self.filter.decide([Visit(everyone.keys[i]) for i in trained], everyone.part(trained))
            weights[trained] = decision.weights
            own = range(*everyone.mine.indices(len(everyone.keys)))
            self.verdicts = [verdict for i, verdict in zip(trained, decision.verdicts, strict=True) if i in own]
        self.seen, self.dropped = self.seen + len(trained), self.dropped + int((weights[trained] == 0).sum())
        self._calibrate(everyone)
        if self._accelerator is None or self._accelerator.sync_gradients:
            self._end_window()
        kept = self.filter.rule.divides_by == "kept"
        divisor = max(float(weights.sum()), KEPT_FLOOR) if kept else max(len(trained), 1)
        # Gradients are averaged over ranks. The weights are scaled before they go to the device: some devices make a
        # double of a scalar tensor times a number.
        mine = weights[everyone.mine] * (self.exchange.world_size / divisor)
        return (losses * mine.to(losses.device)).sum()

    def _measure(
        self, model_pred: Tensor, reference: Tensor, target: Tensor, timesteps: Tensor, usable: Sequence[bool] | None
    ) -> Measurement:
        """In epsilon space what counts is the error, and it is the prediction's times ``NoiseLevels.factor``."""
        factor = self._levels.factor(timesteps)
        shape = (-1, *[1] * (target.ndim - 1))
        scale = factor.to(target.device, torch.float32).view(shape)
        errors = [scale * (one.detach().float() - target.detach().float()) for one in (model_pred, reference)]
        says = [bool(ok) for ok in factor >= EPSILON_FLOOR]
        says = says if usable is None else [a and bool(b) for a, b in zip(says, usable, strict=True)]
        noise = torch.zeros_like(errors[0])
        return self.filter.measure(Predictions(noise, errors[0], ref_cond=errors[1]), timesteps, says)

    def _calibrate(self, everyone: AllRows) -> None:
        for i, key in enumerate(everyone.keys):
            if key in self._held_out:
                one = everyone.part([i])
                values = [float(one.signals[name][0]) for name in one.signals]
                row = [int(one.timesteps[0]), bool(one.usable[0]), *values]
                for name, (timestep, usable, *signals) in self._turns.take(key, row):
                    columns = {n: torch.tensor([v]) for n, v in zip(one.signals, signals, strict=True)}
                    one_row = Measurement(columns, np.array([timestep]), np.array([usable], dtype=bool))
                    self.filter.calibrate([name], one_row)

    # -- windows and state ----------------------------------------------------------------------------------------

    def _end_window(self) -> None:
        held_out, config = self.filter.held_out, self.filter.config
        if held_out.shortage is not None and config.policy != "observe" and self.filter.rule.needs_held_out:
            raise ValueError(
                f"filter.false_drop_rate: {held_out.rate:g} needs at least "
                f"{smallest_reference(held_out.rate)} held-out pairs, and {len(held_out)} of the keys are: "
                "raise held_out of LoopFilter, or set false_drop_rate to "
                f"{smallest_rate(len(held_out)):g} or more. For a few dozen pictures no share is enough: memsieve "
                "train with filter.policy: retire asks the model itself what it gives back"
            )
        before = set(self.filter.condemned)
        self.filter.end_window(_log.warning)
        for name in self.filter.condemned.keys() - before:
            _log.info("pair %s is memorised by window %d: trained on no more", name, self.filter.step)

    @property
    def condemned(self) -> dict[str, int]:
        """Keys of the pairs that are trained on no more, and the window of each."""
        return self.filter.condemned

    def scalars(self) -> dict[str, float]:
        """For ``accelerator.log``: what the filter has seen and done, over all ranks."""
        return {
            "memsieve/seen": self.seen,
            "memsieve/dropped": self.dropped,
            "memsieve/condemned": len(self.condemned),
            "memsieve/held_out": len(self.filter.held_out),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on, the same on every rank, and no collective: also where the main
        process saves alone."""
        return {
            "filter": self.filter.state_dict(), "turns": self._turns.state_dict(),
            "seen": self.seen, "dropped": self.dropped,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore exactly, on any number of ranks.

        Raises:
            ValueError: the state was saved with settings that decide otherwise.
        """
        self.filter.load_state_dict(state["filter"])
        self._turns.load_state_dict(state["turns"])
        self.seen, self.dropped = int(state["seen"]), int(state["dropped"])


def _refuse_non_finite(everyone: AllRows) -> None:
    lost = [key for key, finite in zip(everyone.keys, everyone.finite, strict=True) if not finite]
    if lost:
        raise FloatingPointError(
            f"the loss of {len(lost)} pair(s) is not finite: {', '.join(lost[:8])}; the model was not updated. Leave "
            "the pictures out, or, where they are well, lower the learning rate"
        )
