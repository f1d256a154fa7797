"""Held-out pairs beside the training windows: scored in turn, by a fixed set of draws each.

They are never trained on, so that meeting the same (t, noise) again teaches the model nothing, and what the reference
says of a draw is computed once, where that is a number or two. Training visits take fresh draws of the same
distribution. A held-out pair's mean over many sweeps keeps what its few draws happen to be like, which a training
pair's mean loses: held-out pairs look farther apart than they are, and the bar is, if anything, too high.
"""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any, Final

import torch

from memsieve.filtering.audit.looked_up import LookedUpReference
from memsieve.filtering.data.held_out import held_out_rows
from memsieve.filtering.data.rows import Row
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.settings import SettingsError
from memsieve.filtering.signals import OF_PREDICTIONS
from memsieve.train.batch import Batch, Encoded, build_batch, encode
from memsieve.train.config import RunConfig, TrainConfig
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.measure import REFERENCE, Scorer
from memsieve.train.visits import draw_visits, measurable, plain_samples

__all__ = ["DRAWS", "HeldOutTurns", "enough_held_out", "held_out_squares", "held_out_turn"]

DRAWS: Final = 16
"""(t, noise) draws of each held-out pair, taken in turn: enough to average over t, and the reference is asked once
about each."""


SHARE: Final = 0.25
"""Of a forward of a rank's window, for held-out pairs' forwards by the present model, in the batch and by default: the
four rows of sixteen that the published runs took."""


def held_out_turn(pair_filter: MemorizationFilter, train: TrainConfig, held_out: int) -> tuple[int, int]:
    """(held-out pairs scored in one go, windows from one go to the next; at the loader the budget says how many).

    As the settings say, every window; by default so many that their forwards come to ``SHARE`` of a forward of the
    window: a whole batch of them every so many windows, since a forward of a few rows costs more a row. At the loader
    eight.
    """
    asked = pair_filter.config.held_out_per_window
    if asked is not None or pair_filter.schedule is not None:
        return min(asked or 8, held_out), 1
    forwards = 1 + len(pair_filter.deciding_passes - (REFERENCE if _remembered(pair_filter) else frozenset()))
    a_window = max(1.0, SHARE * train.batch_size * train.accumulation / forwards)
    size = min(max(int(a_window), train.batch_size), held_out)
    return size, max(1, round(size / a_window))


def _remembered(pair_filter: MemorizationFilter) -> bool:
    """Whether numbers say what the reference made of a draw; where its predictions themselves are compared, they would
    fill gigabytes, and it is asked at each turn."""
    return not OF_PREDICTIONS.intersection(pair_filter.config.deciding)


def _parts(rows: list[Row], size: int) -> list[list[Row]]:
    """Rows that are scored together: up to ``size``, of one shape, in their order."""
    shapes: dict[torch.Size, list[Row]] = {}
    for row in rows:
        shapes.setdefault(row.pixels.shape, []).append(row)
    return [mine[start : start + size] for mine in shapes.values() for start in range(0, len(mine), size)]


def enough_held_out(config: RunConfig) -> list[Row]:
    """The held-out pairs of a run, before its model is loaded.

    Raises:
        ValueError: there are fewer than the filter needs.
    """
    options = config.filter
    rows = held_out_rows(config.data, config.train.seed, audited=options.enabled and bool(options.audits))
    if options.enabled:
        with warnings.catch_warnings(action="ignore"):  # what is used instead is said once, by the filter
            HeldOutPairs(options).check(len(rows))
    return rows


def held_out_squares(config: RunConfig, held_out: list[Row]) -> list[Row]:
    """The held-out pairs as squares, which drawings are."""
    drawn = config.validation.copy_groups or (config.filter.enabled and config.filter.rule == "recall")
    if config.data.buckets is None or not drawn:
        return held_out
    return held_out_rows(config.data.in_squares(), config.train.seed)


class HeldOutTurns:
    """Whose turn it is at a step, and what that costs.

    Args:
        denoiser: the model family's adapter.
        pair_filter: says which passes are needed, and what they may cost.
        rows: the held-out pairs.
        config: of the run; rows are noised as training's are.
        looked_up: where given, its draws take the place of the fixed set.

    Raises:
        SettingsError: ``max_timestep`` leaves nothing to measure at.
    """

    def __init__(
        self,
        denoiser: Any,
        pair_filter: MemorizationFilter,
        rows: list[Row],
        config: RunConfig,
        looked_up: LookedUpReference | None,
    ) -> None:
        self.denoiser, self.filter, self.rows, self.looked_up = denoiser, pair_filter, rows, looked_up
        self.settings = DrawSettings.of(config)
        window_rows = config.train.batch_size * config.train.accumulation
        size, every_so_many = held_out_turn(pair_filter, config.train, len(rows))
        self.parts = _parts(rows, size)
        # of many shapes parts are smaller than a turn, and come the sooner
        self._every = max(1, round(every_so_many * len(rows) / (size * len(self.parts))))
        self._firsts = list(itertools.accumulate((len(part) for part in self.parts), initial=0))
        self.draws = looked_up.draws if looked_up is not None else DRAWS
        every = denoiser.timesteps_at(torch.arange(denoiser.num_train_timesteps, device=denoiser.device))
        self.timesteps = [i for i, ok in enumerate(measurable(denoiser, every, self.settings.max_timestep)) if ok]
        if not self.timesteps:
            raise SettingsError(
                f"filter.max_timestep: {pair_filter.config.max_timestep} leaves none of the "
                f"{denoiser.num_train_timesteps} timesteps to measure at; raise it, 0.75 is usual"
            )
        self._encoded: dict[int, Encoded] = {}
        self._reference: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
        self._remembers = _remembered(pair_filter)
        reference = len(pair_filter.deciding_passes & REFERENCE) if looked_up is None else 0
        present = 1 + len(pair_filter.deciding_passes - REFERENCE)
        if not self._remembers:
            present, reference = present + reference, 0
        first, later = (self._interval(window_rows, size, n) for n in (present + reference, present))
        # At the loader nobody can be condemned before the first comparison: until then the budget is theirs alone.
        warm = 0 if pair_filter.schedule is None else min(pair_filter.groups.first, self.draws) * len(self.parts)
        warming = self._interval(window_rows, size, present + reference, warming=True)
        self._phases = ((warm, warming), (self.new_turns - warm, first), (math.inf, later))
        if pair_filter.schedule is not None:
            pair_filter.schedule.warmup = warm * warming

    @property
    def new_turns(self) -> int:
        """Turns until every part has met each of its draws."""
        return self.draws * len(self.parts)

    def _interval(self, window_rows: int, size: int, forwards: int, warming: bool = False) -> int:
        """Windows from one turn to the next: always as many, or as the budget has it."""
        schedule = self.filter.schedule
        return self._every if schedule is None else schedule.calibration_interval(window_rows, size, forwards, warming)

    def at(self, step: int) -> tuple[int, int] | None:
        """(part, its draw) whose turn is at ``step``, a function of the step alone; None where it is nobody's.

        While draws are new the reference is asked too, and the turns are farther apart.
        """
        before = 0
        for turns, interval in self._phases:
            if step < turns * interval:
                turn, rest = divmod(step, interval)
                turn += before
                return None if rest else (turn % len(self.parts), turn // len(self.parts) % self.draws)
            before, step = before + int(turns), step - int(turns) * interval
        raise AssertionError("the last phase has no end")

    def score(self, step: int, scorer: Scorer) -> None:
        """Score those whose turn it is with the present model and hand them to the filter; all ranks the same."""
        if (turn := self.at(step)) is None:
            return
        part, draw = turn
        batch = self._batch(part, draw)
        passes = self.filter.deciding_passes
        if self._remembers and self.looked_up is None and passes & REFERENCE and turn not in self._reference:
            self._reference[turn] = scorer.reference_values(batch, passes)
        known = self._reference.get(turn)
        measurement = scorer.measure(batch, passes=passes, signals=self.filter.config.deciding, reference=known)
        self.filter.calibrate([row.group for row in self.parts[part]], measurement)

    def _batch(self, part: int, draw: int) -> Batch:
        """The pairs of ``part``, noised by their draw ``draw``; images and captions are encoded at the first turn."""
        rows, known = self.parts[part], self.looked_up
        if part not in self._encoded:
            self._encoded[part] = encode(self.denoiser, [row.pixels for row in rows], [row.caption for row in rows])
        latent = self.denoiser.latent_shape(*rows[0].pixels.shape[1:])
        audited = [(draw, known.draw(row.group, draw, latent)) for row in rows] if known is not None else None
        positions = [("calibration", draw, self._firsts[part] + i) for i in range(len(rows))]
        samples = plain_samples(rows, self.settings, positions)
        visits = draw_visits(self.denoiser, samples, self.settings, audited, among=self.timesteps)
        return build_batch(self.denoiser, visits, encoded=self._encoded[part])
