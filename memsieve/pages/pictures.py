"""Small pictures of some images of the data, for a page: read from their shards once more, decoded and encoded anew, so
that nothing but pixels reaches the page."""

from __future__ import annotations

import base64
import io
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup
from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import BadSample, decode_image
from memsieve.filtering.data.fields import printable
from memsieve.filtering.data.rows import RawRow, content_id
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.data.sources import open_source
from memsieve.filtering.settings import SettingsError

__all__ = ["Place", "small_pictures", "thumbnail"]

MOST_SHARDS: Final = 300
"""That one page reads from, each up to the last picture that is wanted of it."""
_TINY: Final = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image is: its content id, its shard and its index there, and its part of the source."""

    content: str
    shard: str
    index: int
    part: int


def small_pictures(places: Iterable[Place], config: DataConfig, shards: Iterable[str], side: int) -> dict[str, Markup]:
    """Content id -> data URI of a picture of at most ``side`` pixels; of images that are not found there, none.

    Args:
        places: in the order of their importance, should there be more shards than are read.
        config: says what the data is, and the limits of what is decoded.
        shards: the data's own; a place in any other is not looked into.
        side: pixels of the longer side.
    """
    wanted = list(dict.fromkeys(places))
    config = config.model_copy(update={"keep_list": None})
    rows = _rows_of_shards(wanted, config, shards) if config.format == "webdataset" else _rows_of_parts(wanted, config)
    contents = {place.content for place in wanted}
    found: dict[str, Markup] = {}
    for raw in rows:
        if raw.error is not None or (content := content_id(raw.image)) not in contents or content in found:
            continue
        try:
            found[content] = thumbnail(decode_image(raw.image, config), side)
        except BadSample:
            continue
    return found


def thumbnail(image: Image.Image, side: int) -> Markup:
    """An RGB picture as a data URI of at most ``side`` pixels; PNG where it is tiny, else JPEG."""
    image = image.copy()
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    tiny, buffer = max(image.size) <= _TINY, io.BytesIO()
    image.save(buffer, "PNG", optimize=True) if tiny else image.save(buffer, "JPEG", quality=82)
    return Markup(f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(buffer.getvalue()).decode()}")


def _rows_of_shards(places: list[Place], config: DataConfig, shards: Iterable[str]) -> Iterator[RawRow]:
    # Only the data's own shards: a table names others at most because somebody wrote it so.
    own = {printable(shard): shard for shard in shards}
    indices: dict[str, set[int]] = defaultdict(set)
    for place in places:
        if place.shard in own:
            indices[own[place.shard]].add(place.index)
    for shard, mine in itertools.islice(indices.items(), MOST_SHARDS):
        yield from read_shard(shard, config, min(mine), max(mine) + 1, only=mine)


def _rows_of_parts(places: list[Place], config: DataConfig) -> Iterator[RawRow]:
    try:
        source: Any = open_source(config.path, config)
    except SettingsError:  # the data is not there any more
        return
    for place in places:
        if 0 <= place.part < len(source):
            yield from source.read(place.part)
