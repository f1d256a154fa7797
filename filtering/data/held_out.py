"""Pairs that are never trained on: which groups they are, and a bounded set of them decoded."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import BadSample, decode_row, group_of
from memsieve.filtering.data.draws import row_generator
from memsieve.filtering.data.rows import Row
from memsieve.filtering.data.sources import Source, open_source

__all__ = ["HELD_OUT_STREAM", "MIN_HELD_OUT", "held_out_groups", "held_out_rows", "is_held_out"]

MIN_HELD_OUT = 50
"""Fewer held-out pairs than this calibrate nothing; what to do about it is the caller's choice."""
HELD_OUT_STREAM = -1
"""The stream number of held-out rows, so that their positions differ from those of every training row."""

_log = logging.getLogger(__name__)


def is_held_out(group: str, fraction: float) -> bool:
    """Whether ``group`` is among the held-out ``fraction``, by a hash that no seed changes: a pair held out of one
    run is held out of every run on the same data."""
    digest = hashlib.blake2b(group.encode(), digest_size=8, person=b"held-out").digest()
    return int.from_bytes(digest, "big") < fraction * 2.0**64


def held_out_groups(config: DataConfig) -> frozenset[str] | None:
    """Every group of ``held_out_path``, for training to skip; None where no such path is given.

    Reads the whole held-out source once, without decoding it.
    """
    if config.held_out_path is None:
        return None
    source = _held_out_source(config, config.held_out_path)
    rows = (raw for part in range(len(source)) for raw in source.read(part))
    return frozenset(group_of(raw, config) for raw in rows if raw.error is None)


def _held_out_source(config: DataConfig, path: str | list[str]) -> Source:
    """The keep-list is about the training data."""
    return open_source(path, config.model_copy(update={"keep_list": None}), "data.held_out_path")


def held_out_rows(config: DataConfig, seed: int, audited: bool = False) -> list[Row]:
    """Up to ``held_out_max`` decoded held-out rows, one per group, the same for the same data and ``seed``.

    They come from ``held_out_path``, else from the groups of the training source that ``is_held_out`` picks. Shards
    are read in an order drawn from ``seed`` until enough rows are found, so a large source is not read to its end;
    crop, flip and the caption of several are drawn as for training rows. Rows that cannot be used are left out and
    counted in a warning.

    Args:
        audited: take the first of several captions, the one that an audit scores.
    """
    if config.held_out_path is None and config.held_out_fraction == 0.0:
        return []
    if config.held_out_path is None:
        source = open_source(config.path, config)
    else:
        source = _held_out_source(config, config.held_out_path)
    rows: list[Row] = []
    groups: set[str] = set()
    unusable = 0
    for part in row_generator(seed, purpose="held-out parts").permutation(len(source)):
        for raw in source.read(int(part)):
            if raw.error is not None:
                # Which part of the split it belongs to cannot be known; training names it too where it does.
                unusable += config.held_out_path is not None
                continue
            group = group_of(raw, config)
            if group in groups or (config.held_out_path is None and not is_held_out(group, config.held_out_fraction)):
                continue
            groups.add(group)
            if audited:
                raw = replace(raw, captions=())
            try:
                rows.append(decode_row(raw, config, HELD_OUT_STREAM, 0, len(rows), seed))
            except BadSample as error:
                unusable += 1
                _log.debug("held-out row %s of %s: %s", raw.key, raw.shard, error)
            if len(rows) >= config.held_out_max:
                break
        if len(rows) >= config.held_out_max:
            break
    if unusable:
        _log.warning("%d held-out rows could not be used and are left out", unusable)
    return rows
