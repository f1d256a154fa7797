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


def threshold_for(nearest: Likeness, false_joins: float) -> float:
    """The likeness that the nearest of the *different* pictures reaches with probability ``false_joins``.

    The nearest of many is distributed as extreme values are (Gumbel). Location and scale are taken from the lower half
    of the sample, its quartile and its median: near-duplicates in the data lie above, and do not move them while they
    are fewer than half.
    """
    low, middle = np.quantile(nearest, [0.25, 0.5])
    # Quantile q of a Gumbel distribution lies at -log(-log q).
    at = [-np.log(-np.log(q)) for q in (0.25, 0.5, 1.0 - false_joins)]
    scale = max(float(middle - low) / (at[1] - at[0]), 1e-9)
    return float(middle + scale * (at[2] - at[1]))


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
    least = threshold_for(nearest, false_joins)
    threshold = min(max(least, -1.0), 1.0) if kind == "floats" else max(float(np.floor(-least)), 0.0)
    least = threshold if kind == "floats" else -threshold
    recall = {}
    for edit in EDITS:
        pictures = [edited(edit, sample[name], [seed, number]) for number, name in enumerate(own)]
        again = describe(descriptor, pictures)
        likeness = [
            float(alike(row[None], other[None])[0, 0]) if other is not None else -np.inf
            for row, other in zip(own.values(), again, strict=True)
        ]
        recall[edit] = float(np.mean(np.array(likeness) >= least))
    return CheckedDescriptor(by, kind, threshold, recall, nearest, float((nearest >= least).mean()), len(own))


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
