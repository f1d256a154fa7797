"""A table of who belongs together: near-duplicates, found before training, as one group of the filter."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.settings import SettingsError

__all__ = ["group_table"]


@lru_cache(maxsize=4)
def group_table(path: str) -> dict[str, str]:
    """Image -> group, from a Parquet file with the text columns ``content`` (``content_id`` of the encoded image: the
    first 32 hex digits of its sha256) and ``group``. Read once per process; about 300 bytes a row.

    Raises:
        SettingsError: no such file, not Parquet, without these columns, or an image in two groups.
    """
    file = Path(path)
    if not file.is_file():
        raise SettingsError(f"data.groups: '{path}' does not exist; name a Parquet file with columns content and group")
    try:
        table = pq.read_table(file, columns=["content", "group"])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise SettingsError(f"data.groups: '{path}' holds no columns content and group: {error}") from error
    columns = [table[name].to_pylist() for name in ("content", "group")]
    found: dict[str, str] = {}
    for content, group in zip(*columns, strict=True):
        if not isinstance(content, str) or not isinstance(group, str) or not group:
            raise SettingsError(f"data.groups: '{path}' has a row that is not two texts: {content!r}, {group!r}")
        if found.setdefault(content[:32], group) != group:
            raise SettingsError(
                f"data.groups: '{path}' puts image {content[:32]} into two groups; keep one of its rows"
            )
    return found
