"""From a prompt to the positions of its conditioning: tokens, the words they belong to, and what is cut off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from memsieve.filtering.denoisers.base import TextPart

__all__ = ["Token", "TokenTable", "cut_text", "token_table"]

Kind = Literal["start", "word", "end", "padding"]


@dataclass(frozen=True, slots=True)
class Token:
    """One position of the encoder's sequence; ``word`` counts the prompt's words, None for specials and padding."""

    position: int
    text: str
    kind: Kind
    word: int | None


@dataclass(frozen=True, slots=True)
class TokenTable:
    """All positions of one prompt in one text encoder's sequence, its words as written, and the text beyond its end."""

    tokens: list[Token]
    words: list[str]
    cut: str


def token_table(part: TextPart, prompt: str) -> TokenTable:
    """The positions that a text encoder gives ``prompt``, padded to its full length as pipelines do.

    Words are what stands between white space, so that a person can find, drop or replace them; repeated words stay
    apart. Positions are told by place, not by id: many CLIP tokenizers pad with the end token.
    """
    tokenizer, length, prompt = part.tokenizer, part.length, part.prepared(prompt)
    ids = _ids(tokenizer, prompt)
    specials = int(tokenizer.num_special_tokens_to_add(pair=False))
    start = 1 if specials > 1 and part.has_start else 0
    kept = ids[: length - specials]
    words = prompt.split()
    owners, words = _owners(tokenizer, ids, words)
    tokens: list[Token] = []
    for position in range(length):
        inside = position - start
        if inside < 0:
            tokens.append(Token(position, str(tokenizer.bos_token), "start", None))
        elif inside < len(kept):
            text = tokenizer.decode([kept[inside]]).strip()
            tokens.append(Token(position, text, "word", owners[inside]))
        elif inside < len(kept) + specials - start:
            tokens.append(Token(position, str(tokenizer.eos_token), "end", None))
        else:
            tokens.append(Token(position, str(tokenizer.pad_token), "padding", None))
    cut = str(tokenizer.decode(ids[len(kept) :])).strip() if len(kept) < len(ids) else ""
    return TokenTable(tokens, words, cut)


def cut_text(layout: Sequence[TextPart], prompt: str) -> str:
    """The end of ``prompt`` that no text encoder reads; empty where one of them reads all of it."""
    cuts = [token_table(part, prompt).cut for part in layout]
    return min(cuts, key=len) if cuts else ""


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)


def _owners(tokenizer: Any, ids: Sequence[int], words: list[str]) -> tuple[list[int], list[str]]:
    """The word of each token. CLIP and T5 tokenizers never join tokens across white space, so the words' own tokens
    in a row are the prompt's; where a tokenizer does (or normalises the space itself), every token is its own word."""
    pieces = [_ids(tokenizer, word) for word in words]
    if [piece for word in pieces for piece in word] == list(ids):
        return [number for number, word in enumerate(pieces) for _ in word], words
    return list(range(len(ids))), [tokenizer.decode([piece]).strip() for piece in ids]
