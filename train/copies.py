"""Does the model copy yet? Generations for the most suspected groups and fixed prompts, judged at validation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from memsieve.filtering.conformal import smallest_reference
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import BadSample, decode_row, group_of
from memsieve.filtering.data.held_out import HELD_OUT_STREAM
from memsieve.filtering.data.rows import Row
from memsieve.filtering.data.sources import open_source
from memsieve.filtering.settings import SettingsError
from memsieve.inference.copies.judge import DEFAULT_ALPHA, CopyJudge
from memsieve.inference.copies.rate import copy_rate
from memsieve.inference.copies.similarity import build_similarity

__all__ = ["Bank", "CopyProbe", "as_tensor", "training_bank"]


@dataclass(frozen=True, slots=True)
class Bank:
    """One image and caption of each of the first training groups, small: what generations are compared with."""

    pixels: torch.Tensor
    """float32 [N, 3, side, side] in [-1, 1]."""
    captions: dict[str, str]
    """By group, in the order of ``pixels``."""


def training_bank(config: DataConfig, most: int, side: int = 64) -> Bank:
    """Read the training source from its start until ``most`` distinct groups are found.

    The order is that of the source, whatever the seed and the state of training, so that a resumed run compares with
    the same images. Rows that cannot be used are left to training to report.
    """
    source = open_source(config.path, config)
    small = {"resolution": min(config.resolution, side), "crop": "center", "flip": False}
    squares = config.in_squares().model_copy(update=small)
    pixels: list[torch.Tensor] = []
    captions: dict[str, str] = {}
    for raw in (raw for part in range(len(source)) for raw in source.read(part)):
        if raw.error is not None or (group := group_of(raw, config)) in captions:
            continue
        try:
            row = decode_row(raw, squares, HELD_OUT_STREAM, 0, 0, 0)
        except BadSample:
            continue
        pixels.append(row.pixels)
        captions[group] = row.caption
        if len(captions) >= most:
            break
    return Bank(torch.stack(pixels), captions)


class CopyProbe:
    """Judges generations against a bank of training images, with held-out images as the null.

    Args:
        config: the run's data section.
        held_out: rows that are never trained on, all of one shape.
        groups: how many of the most suspected groups to draw; they must be in the bank.
        bank: at most this many training groups are compared with.

    Raises:
        SettingsError: too few held-out pairs to calibrate a judge.
    """

    def __init__(self, config: DataConfig, held_out: list[Row], groups: int, bank: int) -> None:
        needed = smallest_reference(DEFAULT_ALPHA)
        if len(held_out) < needed:
            raise SettingsError(
                f"'validation.copy_groups' is {groups}, but a judge of copies needs at least {needed} held-out pairs "
                f"and there are {len(held_out)}: give data.held_out_path or a larger data.held_out_fraction, or set "
                "validation.copy_groups: 0"
            )
        self.config, self.held_out, self.groups, self.bank_size = config, held_out, groups, bank
        self._judge: CopyJudge | None = None
        self._bank: Bank | None = None

    def suspects(self, names: list[str], evidence: np.ndarray, exposures: np.ndarray) -> list[tuple[str, str]]:
        """(group, caption) of the groups with the most evidence, then the most exposures, that are in the bank and
        have a caption."""
        bank, _ = self._ready()
        order = np.lexsort((-exposures, -evidence))
        found = ((names[row], bank.captions.get(names[row], "")) for row in order)
        return list(islice((pair for pair in found if pair[1]), self.groups))

    def suspects_rate(self, images: torch.Tensor, groups: list[str]) -> float:
        """Share of ``images`` [N, 3, H, W] in [-1, 1] that are the training image of their own group."""
        return copy_rate(self._ready()[1].judge(images, groups)).rate

    def prompts_rate(self, images: torch.Tensor) -> float:
        """Share of ``images`` nearer to some training image than all but 5 % of the held-out images are. Ordinary
        generations can be expected to reach 5 % too."""
        verdicts = self._ready()[1].judge(images, [""] * len(images))
        return sum(verdict.p <= DEFAULT_ALPHA for verdict in verdicts) / len(verdicts)

    def _ready(self) -> tuple[Bank, CopyJudge]:
        if self._bank is None or self._judge is None:
            self._bank = training_bank(self.config, self.bank_size)
            similarity = build_similarity("pixel_l2")
            self._judge = CopyJudge(similarity, self._bank.pixels, list(self._bank.captions))
            self._judge.calibrate(torch.stack([row.pixels for row in self.held_out]))
        return self._bank, self._judge


def as_tensor(images: list[Any]) -> torch.Tensor:
    """PIL images as float32 [N, 3, H, W] in [-1, 1]."""
    arrays = [np.asarray(image.convert("RGB"), dtype=np.float32) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 127.5 - 1.0
