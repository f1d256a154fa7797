"""How many rows each bucket has, by the headers of pictures: how many windows a pass will have."""

from __future__ import annotations

import logging
import time
from typing import Final

from memsieve.filtering.data.buckets import nearest_bucket
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import upright_size
from memsieve.filtering.data.pool import Ranks
from memsieve.filtering.data.sources import Source

__all__ = ["most_windows", "windows_of"]

EXACT: Final = 100
"""Where the shapes that do not fill their last window could be more than one in so many windows, they are counted."""
_SAY_AFTER: Final = 10.0
_log = logging.getLogger(__name__)


def most_windows(rows: int, rows_per_window: int, buckets: int) -> int:
    """Windows of ``rows`` rows, at most, however they are spread over ``buckets``."""
    if rows <= buckets:
        return rows
    return buckets + (rows - buckets) // rows_per_window


def windows_of(source: Source, config: DataConfig, rows: int, rows_per_window: int, ranks: Ranks) -> int:
    """Windows of a pass of ``rows`` rows in which every row is usable: exact, or more by less than one in a hundred. A
    collective; where data is so little that it matters, each rank looks at its share of the headers."""
    buckets = len(config.shapes)
    least, most = -(-rows // rows_per_window), most_windows(rows, rows_per_window, buckets)
    if (most - least) * EXACT <= most:
        return most
    counts = _counted(source, config, ranks)
    return min(most, sum(-(-count // rows_per_window) for count in counts))


def _counted(source: Source, config: DataConfig, ranks: Ranks) -> list[int]:
    """Rows of each of ``config.shapes``, of all ranks."""
    shapes, counts = config.shapes, [0] * len(config.shapes)
    places = {shape: place for place, shape in enumerate(shapes)}
    share = range(ranks.rank, len(source), ranks.world_size)
    began = said = time.monotonic()
    for done, part in enumerate(share, 1):
        for raw in source.read(part):
            size = None if raw.error is not None else upright_size(raw.image)
            if size is not None:
                counts[places[nearest_bucket(*size, shapes)]] += 1
        now = time.monotonic()
        if done < len(share) and now - said > _SAY_AFTER:
            said, rest = now, (now - began) / done * (len(share) - done)
            _log.warning("data.buckets: looked at %d of %d, about %.0f s left", done, len(share), rest)
    ranks.meet()
    return [int(count) for count in ranks.exchange.sum([float(count) for count in counts])]
