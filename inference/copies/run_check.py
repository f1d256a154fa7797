"""Which pairs of a finished run come back? Full drawings of their captions, beside the model before fine-tuning.

Drawings are made by the model's own pipeline in as many steps as usual, encoded, and compared as latents with those of
the training pictures. What comes back is beyond what the base draws for the same captions, and the model for held-out
ones (see ``memsieve.filtering.evidence.recall``).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from memsieve.filtering.conformal import smallest_reference
from memsieve.filtering.data.rows import Row
from memsieve.filtering.data.small import TrainingPairs
from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.filtering.evidence.own_bars import FEWEST
from memsieve.filtering.evidence.recall import RecallEvidence
from memsieve.filtering.types import group_name
from memsieve.inference.copies.checked_run import CheckedRun
from memsieve.inference.copies.judge import CopyVerdict
from memsieve.inference.copies.rate import CopyRate, copy_rate
from memsieve.inference.copies.recall import LatentBank, Recalled
from memsieve.inference.copies.verify import draw_images
from memsieve.inference.generate import GenerateSettings, load_pipeline
from memsieve.inference.weights import pipeline_identity

__all__ = ["CheckedPair", "RunCheck", "check_run"]

MOST_HELD_OUT: Final = 128
"""Held-out captions that are drawn."""
TOGETHER: Final = 16


@dataclass(frozen=True, slots=True)
class CheckedPair:
    """One pair: ``hits`` of ``drawings`` come back, the chance between ``low`` and ``high`` (95 %); ``nearest`` of them
    are nearest to its own picture. ``comes_back``: oftener than the rate allows. ``trained`` and ``retired`` are the
    run's: exposures, and the step since which it was trained on no more, where there is one."""

    group: str
    key: str
    caption: str
    drawings: int
    nearest: int
    hits: int
    low: float
    high: float
    p_value: float
    recall: float
    comes_back: bool
    trained: int | None = None
    retired: int | None = None


@dataclass(slots=True)
class RunCheck:
    """What a check found, pairs that come back most first.

    Attributes:
        bar: the margin beyond which a drawing comes back.
        base_own, own: share of drawings that are nearest to their own picture, by the base and by the model.
        copies: share of drawings that come back, with its interval over pairs.
        pictures: of each group its training picture, the base's drawing nearest to it (None without a base), and the
            model's, [3, H, W] in [-1, 1].
    """

    run: CheckedRun
    pairs: list[CheckedPair]
    bar: float
    base_own: float
    own: float
    copies: CopyRate
    held_out: int
    pictures: dict[str, tuple[Tensor, Tensor | None, Tensor]] = field(default_factory=dict)

    @property
    def come_back(self) -> list[CheckedPair]:
        """Those that come back oftener than the rate allows."""
        return [pair for pair in self.pairs if pair.comes_back]

    def as_dict(self) -> dict[str, Any]:
        """For JSON; numbers that do not exist are null."""
        return {
            "run": str(self.run.folder) if self.run.of_run else None,
            "model": str(self.run.model), "base": self.run.base, "rate": self.run.rate,
            "come_back": len(self.come_back), "pairs": len(self.pairs), "held_out": self.held_out,
            "bar": _finite(self.bar), "own_image_rate": self.own, "base_own_image_rate": _finite(self.base_own),
            "copy_rate": asdict(self.copies),
            "table": [{name: _finite(value) for name, value in asdict(pair).items()} for pair in self.pairs],
        }  # fmt: skip


def check_run(
    run: CheckedRun,
    out: Path,
    *,
    drawings: int = 8,
    most: int = 64,
    settings: GenerateSettings,
    device: str | None = None,
) -> RunCheck:
    """Draw, compare and count; drawings are kept in ``out``, and the same call goes on with them.

    Args:
        drawings: of each pair.
        most: pairs that are asked about: those with the most evidence, of a larger set.
        settings: of the drawings.

    Raises:
        ValueError: nothing to ask about, or the model, its base or its data cannot be read.
    """
    bank_pairs, asked = run.pairs(most)
    if not asked:
        raise ValueError(f"no training pair of '{run.data.path}' has a caption that could be drawn")
    held_out = [row for row in run.held_out() if row.caption and row.caption not in bank_pairs.of_caption]
    held_out = held_out[:MOST_HELD_OUT]
    captions = [bank_pairs.captions[group][0] for group in asked]
    evidence = RecallEvidence(run.rate, drawings)
    evidence.know(_of_caption(asked, captions))
    settings = _at(settings, run.data.resolution)
    base_own, base_drawn = math.nan, None
    if run.base is not None:  # one after the other: two models need not fit into memory
        count = max(-(-smallest_reference(run.rate) // len(captions)), drawings // 2, FEWEST)
        before = _Drawer(run.base, bank_pairs, held_out, device)
        base_drawn = before.ask(captions, count, out / "base", settings)
        found = [recalled for recalled, _ in base_drawn]
        evidence.add_base([one.margin for one in found], [one.group for one in found])
        base_own = _share(found)
        del before
    after = _Drawer(str(run.model), bank_pairs, held_out, device)
    if held_out:
        unseen = after.ask([row.caption for row in held_out], 1, out / "held_out", settings, trained=False)
        margins = [recalled.margin for recalled, _ in unseen]
        evidence.add_held_out(margins)
        if run.base is None:
            evidence.add_base(margins)
    if not evidence.base:
        raise ValueError(
            f"RUN: neither the model before fine-tuning nor a held-out pair of '{run.folder}' is there, so that "
            "nothing says what an unlearned caption draws; put the base back where config.yaml has it"
        )
    drawn = after.ask(captions, drawings, out / "drawn", settings)
    for number, (recalled, _) in enumerate(drawn):
        evidence.add(captions[number // drawings], recalled.group, recalled.margin)
    return _result(_Asked(run, bank_pairs, asked, captions, drawn, base_drawn), evidence, base_own, len(held_out))


class _Drawer:
    """A model that draws, and the latents of the pictures that it is compared with."""

    def __init__(self, model: str, pairs: TrainingPairs, held_out: Sequence[Row], device: str | None) -> None:
        self.pipe = load_pipeline(model, device=device or ("cuda" if torch.cuda.is_available() else None))
        self.pipe.set_progress_bar_config(disable=True)
        self.denoiser = denoiser_of(self.pipe)
        rows = [*pairs.rows, *held_out]
        names = [group_name(row.group) for row in rows]
        captions = [pairs.captions[group_name(row.group)] for row in pairs.rows] + [[row.caption] for row in held_out]
        latents = self._latents(torch.stack([row.pixels for row in rows]))
        kinds = [True] * len(pairs.rows) + [False] * len(held_out)
        self.bank = LatentBank(latents, names, captions, kinds)

    @torch.no_grad()
    def _latents(self, pixels: Tensor) -> Tensor:
        parts = []
        for part in pixels.split(TOGETHER):
            mean, std = self.denoiser.posterior(part.to(self.denoiser.device))
            parts.append(self.denoiser.sample_latents((mean, std), torch.zeros_like(mean)).float().cpu())
        return torch.cat(parts)

    def ask(
        self, captions: Sequence[str], count: int, folder: Path, settings: GenerateSettings, trained: bool = True
    ) -> list[tuple[Recalled, Tensor]]:
        """What ``count`` drawings of each caption came to, with their pixels [3, H, W], caption by caption."""
        own = pipeline_identity(self.pipe)  # a run that was trained on since draws anew
        asked = json.dumps([own, list(captions), count, settings.steps, settings.guidance_scale, settings.seed])
        name = hashlib.sha256(asked.encode()).hexdigest()[:12]
        images = draw_images(self.pipe, captions, count, folder / name, settings, resume=True)
        of_each = [caption for caption in captions for _ in range(count)]
        return list(zip(self.bank.compare(self._latents(images), of_each, trained), images, strict=True))


def _at(settings: GenerateSettings, resolution: int) -> GenerateSettings:
    return GenerateSettings(
        steps=settings.steps, guidance_scale=settings.guidance_scale, batch=settings.batch, seed=settings.seed,
        scheduler=settings.scheduler, call={"height": resolution, "width": resolution, **settings.call},
    )  # fmt: skip


def _of_caption(groups: Sequence[str], captions: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for group, caption in zip(groups, captions, strict=True):
        found.setdefault(caption, []).append(group)
    return found


def _share(found: Sequence[Recalled]) -> float:
    return sum(one.margin > 0 for one in found) / len(found)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who was asked about, by which caption, among which pictures, and what came of it."""

    run: CheckedRun
    pairs: TrainingPairs
    groups: Sequence[str]
    captions: Sequence[str]
    drawn: Sequence[tuple[Recalled, Tensor]]
    base_drawn: Sequence[tuple[Recalled, Tensor]] | None = None

    def of(self, group: str) -> list[tuple[Recalled, Tensor]]:
        """Drawings that are nearest to ``group``'s picture of those with their caption."""
        return [one for one in self.drawn if one[0].group == group]

    def nearest(self, drawn: Sequence[tuple[Recalled, Tensor]], number: int) -> Tensor:
        """Of ``drawn``, which holds as many drawings of each caption, the one nearest to the picture of a group."""
        count = len(drawn) // len(self.groups)
        its = [one for one in drawn if one[0].group == self.groups[number]]
        return max(its or drawn[number * count : (number + 1) * count], key=lambda one: one[0].margin)[1]


def _result(asked: _Asked, evidence: RecallEvidence, base_own: float, held_out: int) -> RunCheck:
    drawn, count = asked.drawn, len(asked.drawn) // len(asked.groups)
    rows = {group_name(row.group): row for row in reversed(asked.pairs.rows)}
    checked, pictures = [], {}
    for number, group in enumerate(asked.groups):
        checked.append(_checked(asked, evidence, number, rows[group].key))
        before = None if asked.base_drawn is None else asked.nearest(asked.base_drawn, number)
        pictures[group] = (rows[group].pixels, before, asked.nearest(drawn, number))
    checked.sort(key=lambda pair: (-pair.hits / max(pair.drawings, 1), -_or(pair.recall)))
    verdicts = [
        CopyVerdict(
            asked.groups[i // count], one.nearest, "", math.nan, math.nan, math.nan, one.margin > 0,
            one.margin > evidence.bar_of(one.group),
        )
        for i, (one, _) in enumerate(drawn)
    ]  # fmt: skip
    own = _share([one for one, _ in drawn])
    return RunCheck(asked.run, checked, evidence.bar, base_own, own, copy_rate(verdicts), held_out, pictures)


def _checked(asked: _Asked, evidence: RecallEvidence, number: int, key: str) -> CheckedPair:
    group = asked.groups[number]
    chance, known = evidence.chance(group), asked.run.groups.get(group, {})
    return CheckedPair(
        group=group,
        key=key,
        caption=asked.captions[number],
        drawings=chance.drawings,
        nearest=sum(one.margin > 0 for one, _ in asked.of(group)),
        hits=chance.hits,
        low=chance.low,
        high=chance.high,
        p_value=evidence.p_value(group),
        recall=evidence.recall(group),
        comes_back=evidence.reached(group),
        trained=known.get("trained"),
        retired=_retired(known),
    )


def _retired(known: dict[str, Any]) -> int | None:
    step = known.get("condemned_step")
    return int(step) if step is not None and step >= 0 else None


def _or(value: float) -> float:
    return value if value == value else -math.inf


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
