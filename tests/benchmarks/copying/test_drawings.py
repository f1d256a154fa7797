"""What drawings are asked: whose picture is nearest, what is a copy; of training and of held-out pairs alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.copying.drawings import JUDGES, Drawing, Prompts, judged, judges_with, prompts_of
from benchmarks.retrieval.encoder import Encoder
from memsieve.inference.copies.probe import shard_images

Made = tuple[Path, list[dict[str, Any]]]
DRAWING = Drawing(images=2, ordinary=5, held_out=12)
WITH = judges_with(Encoder().eval())
"""An encoder that has learned nothing still knows a picture again."""


def pictures_of(made: Made, prompts: Prompts) -> torch.Tensor:
    """The first picture of each pair, twice, as if the model drew it to the pixel, [P, 2, 3, 64, 64]."""
    out, truth = made
    first = {}
    for part in ("stream", "held_out"):
        of = {row["key"]: row["pair"] for row in truth if row["part"] == part}
        for key, pixels in shard_images(out / part, 64):
            first.setdefault(of[key], pixels)
    return torch.stack([first[pair] for pair in prompts.pairs])[:, None].repeat(1, 2, 1, 1, 1)


def test_all_planted_pairs_are_drawn_and_some_of_the_others_by_their_own_captions(made: Made) -> None:
    out, truth = made
    prompts = prompts_of(out, DRAWING, seed=1)
    cases = {case: prompts.cases.count(case) for case in prompts.cases}
    assert cases == {
        "exact 20": 1, "family 30": 1, "template 30": 1, "paraphrase 30": 1, "ordinary": 5, "held_out": 12,
    }  # fmt: skip
    assert prompts.cases[-12:] == ["held_out"] * 12 and len(set(prompts.pairs)) == len(prompts) == 21
    own = {row["pair"]: row["prompt"] for row in truth}
    assert prompts.captions == [own[pair] for pair in prompts.pairs]
    shown = {row["pair"]: row["base"] for row in truth}
    assert prompts.things == [shown[pair] for pair in prompts.pairs]
    again, other = prompts_of(out, DRAWING, seed=1), prompts_of(out, DRAWING, seed=2)
    assert again == prompts and other.pairs[:4] == prompts.pairs[:4] and other.pairs != prompts.pairs


def test_who_draws_the_pictures_themselves_copies_all_and_who_draws_others_none(made: Made) -> None:
    out, _ = made
    prompts = prompts_of(out, DRAWING, seed=1)
    pictures = pictures_of(made, prompts)
    found = judged(pictures, prompts, out, 1, WITH)
    for pair, case in zip(prompts.pairs, prompts.cases, strict=True):
        for judge in JUDGES:
            assert found[pair][f"own {judge}"] == 1.0, "held-out pictures too: a rate alone shows no copying"
            assert found[pair].get(f"copies {judge}") == (None if case == "held_out" else [1, 1])
    shifted = torch.cat([pictures[1:9], pictures[:1], pictures[10:], pictures[9:10]])
    other = judged(shifted, prompts, out, 1, WITH)
    # of held-out pictures a gallery holds as many as there are families in the stream, and perhaps not the one drawn
    mine = [pair for pair, case in zip(prompts.pairs, prompts.cases, strict=True) if case != "held_out"]
    assert all(other[pair][f"own {judge}"] == 0.0 for pair in mine for judge in JUDGES)
    assert not any(any(other[pair].get(f"copies {judge}", [])) for pair in prompts.pairs for judge in JUDGES)


def test_any_file_of_a_family_is_its_own_picture(made: Made) -> None:
    out, truth = made
    prompts = prompts_of(out, DRAWING, seed=1)
    family = prompts.cases.index("family 30")
    rows = {row["key"] for row in truth if row["part"] == "stream" and row["pair"] == prompts.pairs[family]}
    files = [pixels for key, pixels in shard_images(out / "stream", 64) if key in rows]
    pictures = pictures_of(made, prompts)
    pictures[family] = torch.stack(files[-2:])
    found = judged(pictures, prompts, out, 1, WITH)[prompts.pairs[family]]
    assert found["own pixel_l2"] == 1.0 and found["copies pixel_l2"] == [1, 1]
