"""An explanation as text, as a self-contained page, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from memsieve.filtering.files import write_json
from memsieve.inference.charts import heat_colour, word_picture
from memsieve.inference.explain.explain import EncoderSignificance, Explanation
from memsieve.inference.templates import render

__all__ = ["as_text", "write_explanations", "write_page", "write_picture"]


def as_text(explanation: Explanation, width: int = 30) -> str:
    """A line with a bar for each word in the prompt's order, then specials, pooled embedding and padding."""
    rows = [(word.text, word.significance) for word in explanation.words]
    start, end, padding = _apart(explanation)
    apart = [("start token", start), ("end token", end), ("padding together", padding)]
    if explanation.pooled is not None:
        apart.insert(2, ("pooled embedding", explanation.pooled))
    top = max((value for _, value in [*rows, *apart]), default=0.0) or 1.0
    wide = min(max((len(name) for name, _ in [*rows, *apart]), default=0), 40)

    def line(name: str, value: float) -> str:
        shown = "".join(c if c.isprintable() else "�" for c in name)
        shown = shown if len(shown) <= wide else shown[: wide - 1] + "…"
        return f"{shown:<{wide}}  {value:10.4g}  {'█' * round(width * value / top)}".rstrip()

    return "\n".join([*(line(*row) for row in rows), "-" * (wide + 14), *(line(*row) for row in apart)])


def write_explanations(out: Path, explanations: Sequence[Explanation]) -> None:
    """``explain.json``, ``explain.html`` and a picture ``explain-1.png`` ... of each."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "explain.json", [explanation.as_dict() for explanation in explanations])
    write_page(out / "explain.html", explanations)
    for number, explanation in enumerate(explanations, 1):
        write_picture(out / f"explain-{number}.png", explanation)


def write_page(path: Path, explanations: Sequence[Explanation]) -> None:
    """All explanations on one page without scripts; prompts are escaped."""
    page = render("explain.html", explanations=explanations, shade=_shade, token_shade=_token_shade, named=_named)
    path.write_text(page, encoding="utf-8")


def write_picture(path: Path, explanation: Explanation) -> None:
    """The prompt's words coloured by significance."""
    words = [(word.text, word.significance) for word in explanation.words]
    start, end, padding = _apart(explanation)
    pooled = "" if explanation.pooled is None else f", pooled {explanation.pooled:.2g}"
    apart = f"start {start:.2g}, end {end:.2g}, padding {padding:.2g}{pooled}"
    title = f"{_named(explanation)} {explanation.value:.3g}; apart: {apart}"
    word_picture(path, words, title=title)


def _apart(explanation: Explanation) -> tuple[float, float, float]:
    """Start tokens, end tokens and padding over all encoders, as words are."""
    parts = [(part.start, part.end, part.padding) for part in explanation.encoders]
    start, end, padding = (math.sqrt(sum(value**2 for value in values)) for values in zip(*parts, strict=True))
    return start, end, padding


def _named(explanation: Explanation) -> str:
    return explanation.measure.replace("_", " ")


def _shade(explanation: Explanation, value: float) -> str:
    return heat_colour(value / (max((word.significance for word in explanation.words), default=0.0) or 1.0))


def _token_shade(encoder: EncoderSignificance, value: float) -> str:
    return heat_colour(value / (max((token.significance for token in encoder.tokens), default=0.0) or 1.0))
