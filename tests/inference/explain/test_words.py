"""From a prompt to its tokens and words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from memsieve.inference.explain.words import cut_text, token_table
from memsieve.inference.opened import open_model


def test_odd_text_has_words(build_pipeline: Callable[..., Any]) -> None:
    table = token_table(open_model(build_pipeline()).denoiser.text_layout()[0], "日本 é")
    assert table.words and sum(t.kind == "word" for t in table.tokens) > 0


def test_what_is_cut_is_the_end_of_the_prompt(build_pipeline: Callable[..., Any]) -> None:
    layout = open_model(build_pipeline()).denoiser.text_layout()
    prompt = "a " * 14 + "cat dog"
    assert cut_text(layout, "a cat") == "" and cut_text(layout, prompt).split() == ["cat", "dog"]
    (part,) = layout
    table = token_table(part, prompt)
    assert [t.kind for t in table.tokens] == ["start", *["word"] * 14, "end"] and len(table.words) == 16
    assert [t.word for t in table.tokens[1:15]] == list(range(14)), "each of the repeated words apart"
