"""What the finished model draws for each pair of a small set, beside its picture: for the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from memsieve.filtering.files import write_json
from memsieve.filtering.types import group_name
from memsieve.train.copies import as_tensor
from memsieve.train.probes import validation_images
from memsieve.train.session import Session

__all__ = ["draw_pairs"]

MOST: Final = 64
"""Pairs that are drawn: one full drawing each takes as long as a few passes. ``memsieve check`` asks more of them."""


def draw_pairs(session: Session) -> None:
    """Write a picture of each pair, how often it comes back (``recall.json``), and one drawing of those that come back
    most; nothing where nobody was asked.

    Where parameters are sharded every rank draws, and the first writes.
    """
    recall = session.recall
    if recall is None:
        return
    main = session.accelerator.is_main_process
    rows = {group_name(row.group): row for row in reversed(recall.pairs.rows)}
    for row in rows.values() if main else ():
        session.records.picture(row)
    evidence = recall.rule.evidence
    if main:
        chances = {group: evidence.chance(group) for group in rows}
        told = {
            group: {"hits": chance.hits, "drawings": chance.drawings, "low": chance.low, "high": chance.high}
            for group, chance in chances.items()
            if chance.drawings
        }
        write_json(session.config.output / "recall.json", told)
    if not (main or session.engine.sharded):
        return
    asked = [group for group in rows if recall.pairs.captions[group]]
    asked.sort(key=lambda group: (-evidence.chance(group).hits, -_or(evidence.recall(group))))
    size, options = session.config.train.batch_size, session.config.validation
    for start in range(0, min(len(asked), MOST), size):
        part = asked[start : min(start + size, MOST)]
        images = validation_images(
            session.denoiser,
            session.accelerator.unwrap_model(session.model),
            [recall.pairs.captions[group][0] for group in part],
            seed=session.config.train.seed,
            steps=options.sampling_steps,
            guidance_scale=options.guidance_scale,
            resolution=session.config.data.resolution,
        )
        for group, pixels in zip(part, as_tensor(images), strict=True) if main else ():
            session.records.picture(replace(rows[group], pixels=pixels), "drawn")


def _or(value: float) -> float:
    return value if value == value else float("-inf")
