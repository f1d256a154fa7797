"""What an icon is called: its words, and the thing that it shows, which is held out or not in all sets alike."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

__all__ = ["concept_of", "drawable", "held_out_concepts", "is_variant", "joined_names", "words_of"]

_SHADE: Final = r"(light|medium-light|medium|medium-dark|dark)"
_VARIANT: Final = re.compile(rf"-{_SHADE}-skin-tone|-{_SHADE}(-{_SHADE})?$")
_PEOPLE: Final = frozenset(
    {"man", "woman", "men", "women", "person", "people", "boy", "girl", "boys", "girls", "male", "female"}
    | {"mr", "mrs", "ms", "with", "of", "and", "the", "a", "in", "on", "for"}
)
"""A woman farmer and a farmer are one thing."""
HELD_OUT_SHARE: Final = 0.35
"""So many that a judge can be trained on their names alone, by drawings of other sets."""
KNOWN_WORDS: Final = 1
"""Other things that training calls by a word, for a held-out name with it to be one that can be drawn."""


def is_variant(name: str) -> bool:
    """A skin tone of a drawing that is there without."""
    return _VARIANT.search(name) is not None


def words_of(name: str, joined: Mapping[str, str]) -> str:
    """The words of an icon's name, without the number that tells a set's drawings of one thing apart.

    Args:
        name: as the set has it.
        joined: words by the letters of whole names, for a set that writes "hotairballoon".
    """
    if "-" not in name and len(name) > 4 and name in joined:
        return joined[name]
    words = name.split("-")
    return " ".join(words[:-1] if len(words) > 1 and words[-1].isdigit() else words)


def joined_names(names: Iterable[str]) -> dict[str, str]:
    """Words by the letters of names that have hyphens."""
    return {name.replace("-", ""): name.replace("-", " ") for name in names if "-" in name}


def concept_of(words: str) -> str:
    """The thing shown, the same in every set: the words in the order of the alphabet, who does it apart."""
    told = {word for word in words.split() if word not in _PEOPLE}
    return " ".join(sorted(told or set(words.split())))


def held_out_concepts(words: Sequence[str]) -> set[str]:
    """A third of the things, chosen by their names alone."""
    return {concept for concept in map(concept_of, words) if _draw(concept) < HELD_OUT_SHARE}


def drawable(held_out: set[str], words: Sequence[str]) -> set[str]:
    """Those of the held-out things that are called by words that training reads in other names too: nobody draws a
    word that was never read."""
    known = Counter(word for concept in set(map(concept_of, words)) - held_out for word in concept.split())
    return {concept for concept in held_out if all(known[word] >= KNOWN_WORDS for word in concept.split())}


def _draw(concept: str) -> float:
    return int.from_bytes(hashlib.sha256(concept.encode()).digest()[:4], "big") / 2**32
