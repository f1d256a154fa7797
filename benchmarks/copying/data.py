"""The streams: mixed, small sets, nothing, and the paper's regime, with their truth and what dedup leaves of them.

Pictures are OpenMoji's, a style that the base has never seen, stored at 256 pixels as real data would be; the loader
resizes. Which of them are held out is the same for all seeds; what is planted differs. Ordinary and rare pairs are of
different things while there are enough: OpenMoji has most people in six tones of skin, and those are near-duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.copying.parts import build_once
from benchmarks.copying.pictures import SPLIT_SEED, pictures_at
from benchmarks.copying.samples import STYLES, Row, plain_row, rare_row, rows_of
from memsieve.filtering.data.openmoji import Picture, Plant, choose_planted
from memsieve.filtering.data.openmoji.names import held_out_bases, rank

__all__ = ["MIXED", "NOTHING", "PAPER", "ROWS", "SHORT", "SMALL", "Planted", "Stream", "build"]

ROWS: Final = 3
"""Of the way in which rows are chosen: streams and cells of another one are made anew."""
HELD_OUT_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Planted:
    """``pairs`` pairs of one ``kind`` of repetition, each trained on ``exposures`` times in all passes together."""

    kind: str
    exposures: int
    pairs: int

    @property
    def case(self) -> str:
        """As tables name it."""
        return f"{self.kind} {self.exposures}"


@dataclass(frozen=True, slots=True)
class Stream:
    """What a stream holds, and how often it is read.

    Attributes:
        name: of the stream.
        planted: what comes more often than once a pass.
        ordinary: pairs that come once a pass.
        rare: pairs in a style of their own, once a pass.
        passes: over all of it.
        caption_dropout: of its runs.
        side: of the stored pictures, in pixels.
        shards: of each part.
        limit: draw at most so many pictures, for tests.
    """

    name: str
    planted: tuple[Planted, ...] = ()
    ordinary: int = 500
    rare: int = 0
    passes: int = 5
    caption_dropout: float = 0.1
    side: int = 256
    shards: int = 8
    limit: int | None = None

    def repeats(self, planted: Planted) -> int:
        """Rows of each of its pairs.

        Raises:
            ValueError: they do not divide over the passes.
        """
        repeats, rest = divmod(planted.exposures, self.passes)
        if rest or repeats < 1:
            raise ValueError(f"{planted.case}: {self.passes} passes do not make {planted.exposures} exposures")
        return repeats


MIXED: Final = Stream(
    "mixed",
    planted=(
        *[Planted("exact", exposures, 6) for exposures in (20, 50, 100, 200, 400)],
        *[Planted(kind, 400, 5) for kind in ("family", "template", "paraphrase")],
    ),
    rare=60,
)
"""Everything at once, as data is: so that a method meets what it finds and what it does not in one run."""
SMALL: Final = {
    f"small {pairs}": Stream(f"small {pairs}", ordinary=pairs, passes=passes)
    for pairs, passes in ((20, 300), (100, 100), (300, 50))
}
"""Few pictures read often: nothing is repeated, and everything is learned by heart in the end."""
SHORT: Final = Stream("small 300 short", ordinary=300, passes=3)
"""A small set that is read too seldom to be copied."""
NOTHING: Final = Stream("nothing", ordinary=560, rare=60, passes=8)
"""No pair is to be dropped."""
PAPER: Final = Stream("paper", planted=(Planted("exact", 200, 12),), ordinary=1440, passes=5, caption_dropout=0.0)
"""The paper's regime: a quarter of the rows are repeats of few pairs, and captions are never dropped."""


def build(out: Path, stream: Stream, seed: int, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """The stream's folder, written once (see ``build_once``); returns what ``dataset.json`` says."""
    asked = {"seed": seed, "stream": asdict(stream), "rows": ROWS}
    kept = out.parent / "pictures"
    return build_once(out, asked, lambda: _rows(kept, stream, seed, progress), stream.shards)


def _rows(
    kept: Path, stream: Stream, seed: int, progress: Callable[[int, int], None] | None
) -> tuple[list[Row], list[Row]]:
    pictures = pictures_at(kept, stream.side, stream.limit, progress)
    bases = held_out_bases({picture.emoji.base for picture in pictures}, SPLIT_SEED, HELD_OUT_SHARE)
    train = [picture for picture in pictures if picture.emoji.base not in bases]
    held_out = [plain_row(picture, "held_out") for picture in pictures if picture.emoji.base in bases]
    plants = [Plant(planted.pairs, stream.repeats(planted)) for planted in stream.planted]
    names = iter(choose_planted(train, pictures, plants, seed))
    left = {picture.emoji.name: picture for picture in train}
    rows: list[Row] = []
    for planted, plant in zip(stream.planted, plants, strict=True):
        for _ in range(plant.count):
            rows += rows_of(left.pop(next(names)), planted.kind, planted.case, plant.repeats, seed)
    rows += _singles(list(left.values()), {row.base for row in rows}, stream, seed)
    order = np.random.default_rng([seed, 1]).permutation(len(rows))
    return [rows[i] for i in order], held_out


def _singles(pictures: Sequence[Picture], planted: set[str], stream: Stream, seed: int) -> list[Row]:
    """Rare and ordinary pairs, each once, and of things that are not ``planted`` (by their bases) while there are any.

    Raises:
        ValueError: there are fewer pictures than the stream has pairs.
    """
    others = _one_of_each_thing_first(
        sorted(pictures, key=lambda picture: rank(seed, "ordinary", picture.emoji.name)), planted
    )
    coloured = [picture for picture in others if picture.vivid][: stream.rare]
    taken = {picture.emoji.name for picture in coloured}
    ordinary = [picture for picture in others if picture.emoji.name not in taken][: stream.ordinary]
    if stream.limit is None and len(ordinary) + len(coloured) < stream.ordinary + stream.rare:
        raise ValueError(f"{stream.name}: {stream.ordinary} ordinary pairs are asked for, there are {len(ordinary)}")
    rare = [rare_row(picture, STYLES[i % len(STYLES)]) for i, picture in enumerate(coloured)]
    return [*rare, *[plain_row(picture, "ordinary") for picture in ordinary]]


def _one_of_each_thing_first(pictures: Sequence[Picture], met: set[str]) -> list[Picture]:
    """Variants of a thing come last: they differ in a tone of skin, and are near-duplicates themselves."""
    firsts: list[Picture] = []
    variants: list[Picture] = []
    seen = set(met)
    for picture in pictures:
        (variants if picture.emoji.base in seen else firsts).append(picture)
        seen.add(picture.emoji.base)
    return [*firsts, *variants]
