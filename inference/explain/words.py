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
    head, tail = _ids(tokenizer, part.before)[part.dropped :], _ids(tokenizer, part.after)
    specials = int(tokenizer.num_special_tokens_to_add(pair=False))
    start = 1 if part.has_start else 0
    kept = ids[: max(length - specials - len(head), 0)]
    owners, words = _owners(tokenizer, prompt, ids)
    row: list[tuple[str, Kind, int | None]] = [(str(tokenizer.bos_token), "start", None)] * start
    row += [(_text(tokenizer, one), "start", None) for one in head]
    row += [(_text(tokenizer, one), "word", word) for one, word in zip(kept, owners, strict=False)]
    row += [(_text(tokenizer, one), "end", None) for one in tail]
    row += [(str(tokenizer.eos_token), "end", None)] * (specials - start)
    row += [(str(tokenizer.pad_token), "padding", None)] * (length - len(row))
    tokens = [Token(position, *told) for position, told in enumerate(row[:length])]
    cut = str(tokenizer.decode(ids[len(kept) :])).strip() if len(kept) < len(ids) else ""
    return TokenTable(tokens, words, cut)


def cut_text(layout: Sequence[TextPart], prompt: str) -> str:
    """The end of ``prompt`` that no text encoder reads; empty where one of them reads all of it."""
    cuts = [token_table(part, prompt).cut for part in layout]
    return min(cuts, key=len) if cuts else ""


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)


def _text(tokenizer: Any, token: int) -> str:
    return str(tokenizer.decode([token])).strip()


def _owners(tokenizer: Any, prompt: str, ids: Sequence[int]) -> tuple[list[int], list[str]]:
    """The word of each token. CLIP and T5 tokenizers never join tokens across white space, so the words' own tokens
    in a row are the prompt's. Others keep a space with the word behind it, and are asked where a token's text ends;
    where they cannot say, every token is its own word."""
    words = prompt.split()
    pieces = [_ids(tokenizer, word) for word in words]
    if [piece for word in pieces for piece in word] == list(ids):
        return [number for number, word in enumerate(pieces) for _ in word], words
    if words and getattr(tokenizer, "is_fast", False):
        told = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if list(told.input_ids) == list(ids):
            return [_word_at(prompt, words, end) for _, end in told.offset_mapping], words
    return list(range(len(ids))), [tokenizer.decode([piece]).strip() for piece in ids]


def _word_at(prompt: str, words: list[str], end: int) -> int:
    """The number of the word that the text of a prompt up to ``end`` ends in; in white space that of the next."""
    before = len(prompt[:end].split())
    inside = end > 0 and not prompt[end - 1].isspace()
    return min(max(before - 1 if inside else before, 0), len(words) - 1)
