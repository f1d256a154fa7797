"""Which rows a loader reads whole, beyond their headers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from memsieve.filtering.data import shards
from memsieve.filtering.data.rows import RawRow


def bodies_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the rows whose pictures are read from here on, as they are."""
    bodies: list[str] = []
    read_shard = shards.read_shard

    def watched(path: str, *args: Any, **options: Any) -> Iterator[RawRow]:
        for row in read_shard(path, *args, **options):
            bodies.extend([row.key] if row.image else [])
            yield row

    monkeypatch.setattr("memsieve.filtering.data.sources.read_shard", watched)
    return bodies
