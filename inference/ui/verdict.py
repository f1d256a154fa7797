"""What the page says of a prompt: one sentence from its score, its drawings and the training images together.

A score alone never calls a prompt memorised, and a score that is not high does not acquit one whose drawings copy.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Drawn", "Verdict", "judged"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn: how many ``images``, and how many ``copies`` of training images are among them; None where no
    index can tell."""

    images: int
    copies: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """``tone`` is bad (copies were drawn), notable (a high score), or calm."""

    tone: str
    headline: str
    remark: str = ""


def judged(stands_out: bool, with_base: bool, drawn: Drawn | None) -> Verdict:
    """The verdict on a prompt.

    Args:
        stands_out: whether its score lies above that of ordinary prompts.
        with_base: whether the score compares with the model before fine-tuning.
        drawn: of this prompt; None where nothing was drawn yet.
    """
    beside = "Its score stands out" if stands_out else "Its score does not stand out"
    weak = "" if with_base or stands_out else (
        "Without the model before fine-tuning (--base) a memorised prompt may score like any other."
    )  # fmt: skip
    if drawn is None:
        if stands_out:
            return Verdict("notable", f"{beside}: draw it, and see whether a training image comes back")
        return Verdict("calm", f"{beside}; drawing it says more", weak)
    count = _counted(drawn.images)
    if drawn.copies is None:
        tone = "notable" if stands_out else "calm"
        remark = "No index of training images tells whether its drawings are copies (--index)."
        return Verdict(tone, f"{beside}", f"{remark} {weak}".strip())
    if drawn.copies:
        lead = f"Memorised: {drawn.copies} of {count} {'copies' if drawn.copies == 1 else 'copy'} a training image"
        return Verdict("bad", lead, "" if stands_out else f"{beside}: by the score alone it would have been missed.")
    if stands_out:
        return Verdict("notable", f"{beside}, but none of {count} copies a training image", "Draw more to be surer.")
    return Verdict("calm", f"{beside}, and none of {count} copies a training image", weak)


def _counted(images: int) -> str:
    return "1 drawing" if images == 1 else f"{images} drawings"
