"""The data of ``scripts/bench quality``: one stream that holds every level of repetition and every hard case at once,
to be read a few times, so that ordinary pairs come round too and are compared like the others.

Pairs are planted by ``seed``; which emoji are held out is the base model's own split, so that no seed holds out what
the base model was trained on. Beside the stream lie what is left of it after deduplication, and after the truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.copying.parts import build_once
from benchmarks.copying.samples import STYLES, Row, paraphrase, plain_row, rare_row, template
from benchmarks.quality.samples import HARD_CASES, near_duplicate
from memsieve.filtering.data.openmoji import Picture, Plant, choose_planted, draw_pictures
from memsieve.filtering.data.openmoji.names import held_out_bases, list_emoji, miniature, rank

__all__ = ["Spec", "build"]

SPLIT_SEED = 0
"""The split that assets/tiny-sd was trained on."""


@dataclass(frozen=True, slots=True)
class Spec:
    """How much of what: ``levels`` are (repeats in the stream, pairs); everything else stands in the stream once.

    The stream is read ``passes`` times, and exposures are repeats times passes.
    """

    levels: tuple[tuple[int, int], ...] = ((4, 7), (10, 7), (20, 7), (40, 7), (80, 7))
    hard_pairs: int = 3
    hard_repeats: int = 20
    rare: int = 60
    clean: int = 500
    passes: int = 5
    size: int = 32
    shards: int = 16
    limit: int | None = None

    @property
    def level_names(self) -> list[str]:
        """The levels as ``Row.case`` names them: by exposures."""
        return [f"level {repeats * self.passes}" for repeats, pairs in self.levels if pairs]


def build(out: Path, seed: int, spec: Spec, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """The stream's folder, written once (see ``build_once``); returns what ``dataset.json`` says."""
    asked = {"seed": seed, "spec": asdict(spec)}
    return build_once(out, asked, lambda: _samples(seed, spec, progress), spec.shards)


def _samples(seed: int, spec: Spec, progress: Callable[[int, int], None] | None) -> tuple[list[Row], list[Row]]:
    pictures, _ = draw_pictures(miniature(list_emoji(), SPLIT_SEED, spec.limit), spec.size, True, progress)
    bases = held_out_bases({picture.emoji.base for picture in pictures}, SPLIT_SEED, 0.12)
    train = [picture for picture in pictures if picture.emoji.base not in bases]
    held = [plain_row(p, "held_out") for p in pictures if p.emoji.base in bases]
    cases = [(f"level {repeats * spec.passes}", repeats, pairs) for repeats, pairs in spec.levels if pairs]
    cases += [(case, spec.hard_repeats, spec.hard_pairs) for case in HARD_CASES if spec.hard_pairs]
    planted = list(choose_planted(train, pictures, [Plant(pairs, repeats) for _, repeats, pairs in cases], seed))
    by_name = {picture.emoji.name: picture for picture in train}
    rows: list[Row] = []
    for case, repeats, pairs in cases:
        for name in planted[:pairs]:
            rows += _copies(by_name.pop(name), case, repeats, seed)
        planted = planted[pairs:]
    others = sorted(by_name.values(), key=lambda picture: rank(seed, "ordinary", picture.emoji.name))
    coloured = [picture for picture in others if picture.vivid][: spec.rare]
    rows += [rare_row(p, STYLES[i % len(STYLES)]) for i, p in enumerate(coloured)]
    rare = {picture.emoji.name for picture in coloured}
    rows += [plain_row(p, "clean") for p in others if p.emoji.name not in rare][: spec.clean]
    order = np.random.default_rng([seed, 1]).permutation(len(rows))
    return [rows[i] for i in order], held


def _copies(picture: Picture, case: str, repeats: int, seed: int) -> list[Row]:
    plain = plain_row(picture, case, repeats)
    if case not in HARD_CASES:
        return [plain] * repeats
    digest = hashlib.sha256(f"{seed}/{case}/{picture.emoji.name}".encode()).digest()
    rng = np.random.default_rng(list(digest[:8]))
    change = {"paraphrase": paraphrase, "near_duplicate": near_duplicate, "template": template}[case]
    return [plain, *[change(plain, rng) for _ in range(repeats - 1)]]
