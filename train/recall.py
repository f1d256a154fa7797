"""Which pairs come back? The model in training is asked: captions are drawn in a few steps, in latents, in turn.

Whose turn it is depends on the step and on what earlier drawings came to, which all ranks know alike; how many drawings
there are, and how many forwards on each rank, depends on the settings alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import torch

from memsieve.filtering.conformal import smallest_reference
from memsieve.filtering.data.draws import normal_like, row_generator
from memsieve.filtering.data.rows import Row
from memsieve.filtering.data.small import MOST, TrainingPairs, training_pairs
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.rules.recall import RecallRule
from memsieve.filtering.settings import SettingsError
from memsieve.filtering.types import group_name
from memsieve.inference.copies.recall import LatentBank, draw_latents, forwards_per_drawing
from memsieve.train.config import RunConfig
from memsieve.train.measure import evaluating

__all__ = ["Asked", "RecallProbe", "asked_pairs"]

EACH_AGAIN: Final = 6
"""Further drawings by the base of a caption that it draws near to its own picture."""
HELD_OUT_SHARE: Final = 8
"""Of a round's drawings, one in so many is of a held-out caption, where there are some."""
Asked = tuple[str, int, bool]
"""A caption, the number of its drawing, and whether it is a training caption."""


def asked_pairs(config: RunConfig) -> TrainingPairs | None:
    """The training pairs that a run asks its model about; None where it asks about none.

    Raises:
        SettingsError: too many pairs, too few, or none with a caption.
    """
    if not config.filter.enabled or config.filter.rule != "recall":
        return None
    pairs = training_pairs(config.data.in_squares())
    if not pairs.whole:
        raise SettingsError(
            f"filter.rule: recall asks about each pair, {MOST} at most, and data.path holds more; set filter.policy: "
            "drop and filter.rule: evidence, which compares the pairs with each other"
        )
    if len(pairs.captions) < 2:
        raise SettingsError(
            f"filter.rule: recall compares a drawing with its own picture and with others, and data.path holds "
            f"{len(pairs.captions)} that can be trained on; give it two at least"
        )
    if not pairs.of_caption:
        raise SettingsError(
            "filter.rule: recall draws the captions of the training pairs, and none has one; write captions, or set "
            "filter.enabled: false"
        )
    return pairs


class RecallProbe:
    """Draws training captions and notes in the rule's evidence which come back.

    Args:
        denoiser: the model family's adapter.
        model: what extra forwards go through: the engine where parameters are sharded, else the bare model.
        rule: whose evidence it is.
        config: of the run.
        pairs: the training pairs, cut to squares.
        held_out: pairs that are never trained on, cut to squares; any number.
        exchange: collectives over ranks.
    """

    def __init__(
        self,
        denoiser: Any,
        model: torch.nn.Module,
        rule: RecallRule,
        config: RunConfig,
        pairs: TrainingPairs,
        held_out: list[Row],
        exchange: Exchange,
    ) -> None:
        self.denoiser, self.model, self.rule, self.pairs = denoiser, model, rule, pairs
        self.seed, self.resolution = config.train.seed, config.data.resolution
        self.flip, self.batch_size = config.data.flip, config.train.batch_size
        self.exchange, self.per_rank = exchange, config.train.batch_size * config.train.accumulation
        self.captions = list(pairs.of_caption)
        self.held_out = [row for row in held_out if row.caption and row.caption not in pairs.of_caption]
        self.interval = max(1, math.ceil(forwards_per_drawing(denoiser) / (3 * config.filter.recall_budget)))
        """Windows from one round to the next: a round has as many drawings as a window has samples."""
        rule.evidence.know(pairs.of_caption)
        self._modules = list(model.modules())
        self._bank: LatentBank | None = None

    @property
    def round(self) -> int:
        """Drawings of a round, of all ranks."""
        return self.per_rank * self.exchange.world_size

    def begin(self) -> None:
        """Before the first step: what the base draws for the training captions, so many that the rate can be told; then
        half as many again of those that it draws nearest to their own pictures, for bars of their own."""
        evidence = self.rule.evidence
        if evidence.base:
            return
        wanted = max(smallest_reference(evidence.rate), len(self.captions))
        drawn: dict[str, list[float]] = {caption: [] for caption in self.captions}
        for start in range(0, wanted, self.round):
            numbers = range(start, start + self.round)
            self._ask_the_base([self.captions[i % len(self.captions)] for i in numbers], drawn)
        nearest = sorted(self.captions, key=lambda caption: -max(drawn[caption], default=-math.inf))
        nearest = nearest[: max(1, wanted // 2 // EACH_AGAIN)]
        for start in range(0, wanted // 2, self.round):
            self._ask_the_base([nearest[i % len(nearest)] for i in range(start, start + self.round)], drawn)

    def _ask_the_base(self, captions: Sequence[str], drawn: dict[str, list[float]]) -> None:
        """A round; ``drawn`` has the margins of each caption so far."""
        told = Counter({caption: len(margins) for caption, margins in drawn.items()})
        asked: list[Asked] = []
        for caption in captions:
            told[caption] += 1
            asked.append((caption, -told[caption], True))
        found = self._ask(asked)
        self.rule.evidence.add_base([margin for margin, _ in found], [group for _, group in found])
        for caption, (margin, _) in zip(captions, found, strict=True):
            drawn[caption].append(margin)

    def due(self, step: int) -> bool:
        """Whether a round is due after ``step`` windows."""
        return step % self.interval == 0

    def turn(self, step: int) -> bool:
        """A round of drawings where one is due after ``step`` windows; on all ranks alike."""
        if not self.due(step):
            return False
        evidence = self.rule.evidence
        asked = self._chosen()
        found = self._ask(asked)
        for (caption, _, trained), (margin, group) in zip(asked, found, strict=True):
            if trained:
                evidence.add(caption, group, margin)
        evidence.add_held_out(
            [margin for (_, _, trained), (margin, _) in zip(asked, found, strict=True) if not trained]
        )
        evidence.rounds += 1
        return True

    def _chosen(self) -> list[Asked]:
        """Whose turn it is: some held-out captions, and of the training captions half in turn, half those of pairs that
        are still trained on and come back most."""
        evidence, count = self.rule.evidence, self.round
        unseen = min(max(1, count // HELD_OUT_SHARE), count - 1) if self.held_out else 0
        first = evidence.asked[""]
        asked: list[Asked] = [
            (self.held_out[(first + i) % len(self.held_out)].caption, first + i, False) for i in range(unseen)
        ]
        in_turn = sorted(self.captions, key=lambda caption: evidence.asked[caption])
        chosen = self._suspected()[: (count - unseen) // 2]
        rest = [caption for caption in in_turn if caption not in chosen] + chosen
        chosen = [*chosen, *(rest[i % len(rest)] for i in range(count - unseen - len(chosen)))]
        seen: dict[str, int] = {}
        for caption in chosen:
            number = seen.setdefault(caption, evidence.asked[caption])
            asked.append((caption, number, True))
            seen[caption] += 1
        return asked

    def _suspected(self) -> list[str]:
        """Captions of pairs that are still trained on, those that come back most first."""
        evidence = self.rule.evidence
        open_ = [
            caption for caption, groups in evidence.pairs.items()
            if evidence.recent.get(caption) and any(group not in self.rule.condemned for group in groups)
        ]  # fmt: skip

        def standing(caption: str) -> tuple[float, float, int]:
            drawn = evidence.recent[caption]
            margins = [margin for _, margin in drawn]
            back = sum(margin > evidence.bar_of(group) for group, margin in drawn) / len(drawn)
            return -back, -sum(margins) / len(margins), evidence.asked[caption]

        return sorted(open_, key=standing)

    def _ask(self, asked: Sequence[Asked]) -> list[tuple[float, str]]:
        """(margin, the pair it is of) of each drawing; ``asked``, the same on all ranks, is shared out over them."""
        bank, start = self.bank, self.exchange.rank * self.per_rank
        mine = asked[start : start + self.per_rank]
        rows: list[list[float]] = []
        with evaluating(self._modules):
            for first in range(0, len(mine), self.batch_size):
                part = mine[first : first + self.batch_size]
                shape = self.denoiser.latent_shape(self.resolution)
                noise = torch.stack(
                    [normal_like(self._generator(caption, number), shape) for caption, number, _ in part]
                )
                captions = [caption for caption, _, _ in part]
                drawn = draw_latents(self.denoiser, self.model, captions, noise, resolution=self.resolution)
                for latent, (caption, _, trained) in zip(drawn, part, strict=True):
                    found = bank.compare(latent[None], [caption], trained)[0]
                    rows.append([found.margin, float(bank.number(found.group))])
        gathered = self.exchange.gather(torch.tensor(rows, dtype=torch.float64)).tolist()
        return [(margin, bank.groups[int(number)]) for margin, number in gathered]

    def _generator(self, caption: str, number: int) -> Any:
        return row_generator(self.seed, caption, number, purpose="recall")

    @property
    def bank(self) -> LatentBank:
        """The latents of all pictures, encoded at the first use, the held-out ones among them."""
        if self._bank is None:
            latents: list[torch.Tensor] = []
            groups: list[str] = []
            captions: list[list[str]] = []
            trained: list[bool] = []
            for kind, rows in ((True, self.pairs.rows), (False, self.held_out)):
                for row in rows:
                    group = group_name(row.group)
                    for pixels in [row.pixels, row.pixels.flip(-1)] if self.flip else [row.pixels]:
                        latents.append(self._encoded(pixels))
                        groups.append(group)
                        captions.append(self.pairs.captions[group] if kind else [row.caption])
                        trained.append(kind)
            self._bank = LatentBank(torch.stack(latents), groups, captions, trained)
        return self._bank

    @torch.no_grad()
    def _encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        mean, std = self.denoiser.posterior(pixels[None])
        return self.denoiser.sample_latents((mean, std), torch.zeros_like(mean))[0].float().cpu()
