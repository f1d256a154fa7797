"""The page's buttons without the page: a side's card speaks of the images that stand below it, on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from memsieve.inference.copies.index_build import build_index
from memsieve.inference.opened import open_model
from memsieve.inference.ui.inspect import Inspector
from memsieve.inference.ui.side import Side
from memsieve.inference.ui.turns import Turns
from memsieve.inference.ui.verdict import Drawn

KEEP = object()
STEPS = 10


def as_bytes(images: Any) -> np.ndarray:
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def turns(memorised: Any, tmp_path_factory: pytest.TempPathFactory) -> Turns:
    """The planted picture stands in the index five times, beside pictures of the same kind; others are held out."""
    folder = tmp_path_factory.mktemp("turns")
    model = open_model(memorised.pipe, base=memorised.before())
    kind = model.noise(["kind"] * 30, range(30), 0)
    pictures = as_bytes(model.denoiser.decode(kind))
    (planted,) = as_bytes(model.denoiser.decode(memorised.planted[None]))
    write(
        folder / "train", [*[(planted, "<b>planted</b>")] * 5, *((p, f"other {i}") for i, p in enumerate(pictures[:5]))]
    )
    write(folder / "held_out", [(p, f"held {i}") for i, p in enumerate(pictures[5:])])
    build_index(str(folder / "train"), folder / "index", similarity="pixel_l2", held_out=str(folder / "held_out"),
                progress=False)  # fmt: skip
    inspector = Inspector(
        model, memorised.ordinary, false_positive_rate=0.07, progress=False, index=folder / "index",
        settings=None,
    )  # fmt: skip
    return Turns(inspector, KEEP)


def write(folder: Path, rows: list[tuple[Any, str]]) -> None:
    folder.mkdir()
    with webdataset.TarWriter(str(folder / "0.tar")) as tar:
        for i, (pixels, caption) in enumerate(rows):
            tar.write({"__key__": f"{i:03d}", "png": pixels, "txt": caption})


@pytest.mark.trains
def test_the_card_changes_with_what_is_drawn(turns: Turns, memorised: Any) -> None:
    text, (left, card, images, near), right = turns.check(memorised.prompt, Side())
    assert text == memorised.prompt and images == [] and near == "" and right[0] == Side()
    assert "Its score stands out: draw it" in card and "Memorised" not in card and "ms-notable" in card
    assert "Drift from the model before fine-tuning" in card
    (left, card, images, near), right = turns.draw(memorised.prompt, memorised.prompt, left, 2, STEPS, lambda *_: None)
    assert "Memorised: 2 of 2 drawings copy a training image" in card and "ms-bad" in card
    assert len(images) == 2 and near.count("a copy") == 2 and "&lt;b&gt;planted&lt;/b&gt;" in near
    assert right == (Side(), "", [], "")
    _, (again, card, images, near), _ = turns.check(f" {memorised.prompt} ", left)
    assert again.drawn == Drawn(2, 2) and "Memorised" in card and (images, near) == (KEEP, KEEP)
    _, (other, card, images, near), _ = turns.check(memorised.ordinary[-1], left)
    assert other.drawn is None and "Memorised" not in card and (images, near) == ([], "")


@pytest.mark.trains
def test_both_sides_are_compared_with_the_training_images(turns: Turns, memorised: Any) -> None:
    quiet = memorised.ordinary[-1]
    first, second = turns.draw(memorised.prompt, quiet, Side(), 2, STEPS, lambda *_: None)
    assert "Memorised: 2 of 2" in first[1] and first[3].startswith("<div") and "As it is" in first[3]
    assert "Edited, from the same noise" in second[3]
    # Whether an ordinary drawing lies near a training image is up to the model: card and neighbours say the same of it.
    copies = second[3].count("<b>a copy</b>")
    said = f"Memorised: {copies} of 2 drawings" if copies else "none of 2 drawings copies a training image"
    assert said in second[1] and second[0].drawn == Drawn(2, copies)
    assert second[0].found is not None and second[0].found.prompt == quiet and len(second[2]) == 2
    left, right, card = first[0], second[0], turns.compare(first[0], second[0], quiet)[1]
    assert said in card, "scored again, the same wording keeps its drawings"
    assert turns.compare(left, right, "red dog")[2:] == ([], "")
    first, second = turns.minimise(memorised.prompt, left, 2, STEPS, 60, lambda *_: None)
    assert "Memorised: 2 of 2" in first[1] and "Minimised, from the same noise" in second[3]
    assert "Drift at the first step, at most" in second[1] and "Minimised" in second[1]


@pytest.mark.trains
def test_examples_begin_with_what_stands_most_often_in_the_index(turns: Turns, memorised: Any) -> None:
    found = turns.inspector.examples(4)
    assert found[0] == "<b>planted</b>" and found[2:] == memorised.ordinary[:2] and len(found) == 4
