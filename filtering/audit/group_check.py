"""From which likeness on are two images one? Asked of the data itself: known edits of some of its pictures must be
found again, and different pictures must not be joined."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.described import described_blocks, kind_of
from memsieve.filtering.audit.describing import Describer
from memsieve.filtering.audit.query import AuditQuery, Rows
from memsieve.filtering.audit.records import content_of
from memsieve.filtering.audit.tasks import Tasks
from memsieve.filtering.data.decode import BadSample
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.identity.descriptors import Descriptor, Kind, describe
from memsieve.filtering.identity.edits import EDITS, edited
from memsieve.filtering.identity.leaders import alike
from memsieve.filtering.identity.picture import seen_picture
from memsieve.filtering.settings import SettingsError

__all__ = ["CheckedDescriptor", "check_descriptors", "threshold_for"]

Likeness = npt.NDArray[np.float64]
SHARDS: Final = 30
"""That the sample is read from at most: each is read whole."""
USELESS: Final = 0.5
"""Mean recall below which a descriptor does not tell pictures of this kind apart."""
ALIKE: Final = (0.9, 0.75)
"""Share of edits that are as like to their originals as another picture that may be a near-duplicate: the first by
which different pictures seldom are."""
SCREENED: Final = (0.25, 0.8)
"""Quantiles that say what different pictures are like: pictures of several kinds spread more in the middle than in the
tail. The few near-duplicates that are left lie beyond."""
ALL: Final = (0.25, 0.5)
"""The same where near-duplicates are not left out."""
FEWEST_APART: Final = 0.2
"""Share of the sample that must be left to say what different pictures are like."""
SELDOM: Final = 0.95
"""Least probability that the nearest different picture is less like it than that."""
FEWEST: Final = 20
"""Pictures without which nothing can be said."""


@dataclass(frozen=True, slots=True)
class CheckedDescriptor:
    """What a descriptor does on a sample of an audit's pictures.

    Attributes:
        by: its name, as ``audit groups --by`` takes it.
        kind: of its rows.
        threshold: chosen; a cosine, or most bits that may differ.
        recall: share of edited pictures that are as like their original, by edit.
        nearest: likeness of the nearest other picture in the audit, of each picture of the sample; [N].
        joined: share of the sample whose nearest other picture lies beyond the threshold: near-duplicates that are
            there, or false joins.
        pictures: of the sample that it says something of.
    """

    by: str
    kind: Kind
    threshold: float
    recall: dict[str, float]
    nearest: Likeness
    joined: float
    pictures: int

    @property
    def mean_recall(self) -> float:
        """Over edits."""
        return float(np.mean(list(self.recall.values())))

    @property
    def useful(self) -> bool:
        """Whether it tells pictures of this kind apart at the asked rate."""
        return self.mean_recall >= USELESS


def threshold_for(nearest: Likeness, false_joins: float, edits: Likeness | None = None) -> float:
    """The likeness that the nearest of the *different* pictures reaches with probability ``false_joins``.

    The nearest of many is distributed as extreme values are (Gumbel). Near-duplicates that are in the data are told by
    ``edits``: pictures whose nearest is as like them as most edits are to their originals are left out, if by what is
    left different pictures hardly ever come as near; location and scale are those of the quartile and the last fifth of
    what is left. If different pictures do come as near, the two cannot be told from each other: all count, by their
    lower half, in which near-duplicates are seldom.

    Args:
        nearest: of each picture of the sample, [N].
        false_joins: a probability.
        edits: likeness of edited pictures to their originals.
    """
    known = np.zeros(0) if edits is None else edits[np.isfinite(edits)]
    for share in ALIKE if len(known) else ():
        near = float(np.quantile(known, 1.0 - share))
        apart = nearest[nearest < near]
        if len(apart) < len(nearest) * FEWEST_APART:
            continue
        place, scale = _gumbel(apart, SCREENED)
        if np.exp(-np.exp((place - near) / scale)) >= SELDOM:
            break
    else:
        place, scale = _gumbel(nearest, ALL)
    return float(place - scale * np.log(-np.log(1.0 - false_joins)))


def _gumbel(values: Likeness, shares: tuple[float, float]) -> tuple[float, float]:
    """Location and scale, by two quantiles."""
    low, high = np.quantile(values, shares)
    # Quantile q of a Gumbel distribution lies at -log(-log q).
    at = [-np.log(-np.log(q)) for q in shares]
    scale = max(float(high - low) / (at[1] - at[0]), 1e-9)
    return float(high) - scale * at[1], scale


def check_descriptors(
    query: AuditQuery, rows: Rows, pictures: int = 300, false_joins: float = 0.01, seed: int = 0
) -> list[CheckedDescriptor]:
    """Each descriptor of an audit on ``pictures`` of its pictures, the one that finds most edits first.

    Args:
        query: in which the audit is open.
        rows: the audit.
        pictures: of the sample; they are read again from the data.
        false_joins: share of pictures that may be joined to a different one.
        seed: of the sample and the edits.

    Raises:
        SettingsError: the audit has no descriptor, or too few pictures, or its data is not there any more.
    """
    config = AuditConfig.model_validate(rows.about["config"])
    describer = Describer(config.describe, config.data)
    if not describer.descriptors:
        raise SettingsError("--threshold auto needs a descriptor: score the audit with --describe, for example sscd")
    sample = _sample(query, rows, config, pictures, seed)
    if len(sample) < FEWEST:
        raise SettingsError(
            f"--check: {len(sample)} pictures could be read of those that were asked for, and {FEWEST} are needed; is "
            "the data still where it was audited?"
        )
    found = []
    for column, descriptor in describer.descriptors.items():
        by = column.removeprefix("descriptor_")
        found.append(_checked(query, rows, by, descriptor, sample, false_joins, seed))
    return sorted(found, key=lambda one: -one.mean_recall)


def _sample(query: AuditQuery, rows: Rows, config: AuditConfig, count: int, seed: int) -> dict[str, Image.Image]:
    """Content -> picture of some images, of at most ``SHARDS`` tasks drawn by chance."""
    tasks = Tasks(config.data, known=None if config.data.format != "webdataset" else [])
    known = rows.status.states
    order = np.random.default_rng([seed, 1]).permutation(len(known))[:SHARDS]
    each = -(-count // len(order))
    found: dict[str, Image.Image] = {}
    for number in order:
        task = known[int(number)].task
        taken = 0
        for _, raw in tasks.read(task):
            if raw.error is not None or (content := content_id(raw.image)) in found:
                continue
            try:
                seen = seen_picture(raw.image, config.data)
            except BadSample:
                continue
            if seen.picture is not None:
                found[content], taken = seen.picture, taken + 1
            if taken >= each or len(found) >= count:
                break
        if len(found) >= count:
            break
    return found


def _checked(
    query: AuditQuery,
    rows: Rows,
    by: str,
    descriptor: Descriptor,
    sample: dict[str, Image.Image],
    false_joins: float,
    seed: int,
) -> CheckedDescriptor:
    kind = kind_of(rows, by)
    own = {name: row for name, row in zip(sample, describe(descriptor, list(sample.values())), strict=True)
           if row is not None}  # fmt: skip
    nearest = _nearest(query, rows, by, own)
    again = {edit: _likeness_of_edit(edit, descriptor, sample, own, seed) for edit in EDITS}
    least = threshold_for(nearest, false_joins, np.concatenate(list(again.values())))
    threshold = min(max(least, -1.0), 1.0) if kind == "floats" else max(float(np.floor(-least)), 0.0)
    least = threshold if kind == "floats" else -threshold
    recall = {edit: float(np.mean(likeness >= least)) for edit, likeness in again.items()}
    return CheckedDescriptor(by, kind, threshold, recall, nearest, float((nearest >= least).mean()), len(own))


def _likeness_of_edit(
    edit: str, descriptor: Descriptor, sample: dict[str, Image.Image], own: dict[str, npt.NDArray[Any]], seed: int
) -> Likeness:
    """Of each of ``own`` to its edit, [N]; minus infinity where the edit has no row."""
    again = describe(descriptor, [edited(edit, sample[name], [seed, number]) for number, name in enumerate(own)])
    return np.array(
        [
            float(alike(row[None], other[None])[0, 0]) if other is not None else -np.inf
            for row, other in zip(own.values(), again, strict=True)
        ]
    )


def _nearest(query: AuditQuery, rows: Rows, by: str, own: dict[str, npt.NDArray[Any]]) -> Likeness:
    """Likeness of the nearest other image of the whole audit to each of ``own``, [N]."""
    mine = np.stack(list(own.values()))
    best = np.full(len(mine), -np.inf)
    place = {name: i for i, name in enumerate(own)}
    for names, values in _in_parts(described_blocks(query, rows, by)):
        likeness = alike(mine, values)
        for j, name in enumerate(names):
            if (i := place.get(content_of(name))) is not None:
                likeness[i, j] = -np.inf
        best = np.maximum(best, likeness.max(axis=1))
    return best


def _in_parts(
    blocks: Iterator[tuple[list[str], npt.NDArray[Any]]], most: int = 8192
) -> Iterator[tuple[list[str], npt.NDArray[Any]]]:
    for names, values in blocks:
        for start in range(0, len(names), most):
            yield names[start : start + most], values[start : start + most]
