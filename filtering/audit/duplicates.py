"""What samples of an audit share: an image, a look, a caption, a key."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, Final

from memsieve.filtering.audit.table import Scores

__all__ = ["Shared", "shared_by"]

MOST_GROUPS: Final = 50


@dataclass(frozen=True, slots=True)
class Shared:
    """Numbers by name, as ``summary.json`` holds them, and the largest groups of samples with one image."""

    counts: dict[str, int]
    groups: list[dict[str, Any]]


def shared_by(scores: Scores) -> Shared:
    """Samples that share an image, a look, or a caption; and keys that stand for several samples."""
    columns = {name: scores.table[name].to_pylist() for name in ("sha256", "phash", "caption_hash", "key", "caption")}
    rows: dict[str, list[int]] = defaultdict(list)
    looks: dict[str, set[str]] = defaultdict(set)
    captions: dict[str, set[str]] = defaultdict(set)
    for row, content in enumerate(columns["sha256"]):
        if content is None:
            continue
        rows[content].append(row)
        if columns["phash"][row] is not None:
            looks[columns["phash"][row]].add(content)
        if columns["caption_hash"][row] is not None:
            captions[columns["caption_hash"][row]].add(content)
    copied = [numbers for numbers in rows.values() if len(numbers) > 1]
    keys = Counter(key for key in columns["key"] if key)
    counts = {
        "duplicate_groups": len(copied),
        "duplicate_samples": sum(len(numbers) - 1 for numbers in copied),
        "near_duplicate_groups": sum(len(contents) > 1 for contents in looks.values()),
        "captions_of_several_images": sum(len(contents) > 1 for contents in captions.values()),
        "repeated_keys": sum(count > 1 for count in keys.values()),
    }
    largest = sorted(copied, key=lambda numbers: (-len(numbers), numbers[0]))[:MOST_GROUPS]
    return Shared(counts, [_group(columns, numbers) for numbers in largest])


def _group(columns: dict[str, list[Any]], rows: list[int]) -> dict[str, Any]:
    first = rows[0]
    return {
        "sha256": columns["sha256"][first],
        "copies": len(rows),
        "captions": len({columns["caption_hash"][row] for row in rows}),
        "caption": columns["caption"][first],
        "keys": [columns["key"][row] for row in rows[:5]],
    }
