"""Which prompts of a list are near-identical."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

__all__ = ["prompt_groups"]

_STOP: Final = frozenset(
    (
        *("a", "an", "the", "of", "in", "on", "at", "to", "for", "and", "or", "with", "by", "from"),
        *("photo", "image", "picture", "is", "his", "her", "its"),
    )
)


def prompt_groups(prompts: Sequence[str], alike: float = 0.6) -> list[int]:
    """A group number for each prompt, equal for near-identical prompts, [N].

    Two prompts belong together where their first two content words agree (series from one template: of a public list
    of 500 memorised prompts 148 begin "Shaw Floors"), or where the overlap of their word sets (Jaccard) is at least
    ``alike``; groups are the connected components.
    """
    words = [re.findall(r"\w+", prompt.lower()) for prompt in prompts]
    parent = list(range(len(prompts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, ...], int] = {}
    for i, found in enumerate(words):
        content = tuple([word for word in found if word not in _STOP][:2]) or tuple(found)
        parent[root(i)] = root(first.setdefault(content, i))
    vocabulary = {word: k for k, word in enumerate(dict.fromkeys(word for found in words for word in found))}
    present = np.zeros((len(prompts), max(len(vocabulary), 1)), dtype=np.float32)
    for i, found in enumerate(words):
        present[i, [vocabulary[word] for word in found]] = 1
    sizes = present.sum(1)
    for start in range(0, len(prompts), 256):
        shared = present[start : start + 256] @ present.T
        union = sizes[start : start + 256, None] + sizes[None, :] - shared
        for i, j in np.argwhere(shared >= alike * np.maximum(union, 1)):
            parent[root(start + int(i))] = root(int(j))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(len(prompts))]
