"""What the page shows of a prompt, and its limits without the page."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memsieve.inference.opened import open_model
from memsieve.inference.ui.inspect import MAX_CHARACTERS, Inspector, limited, pictures
from memsieve.inference.ui.side import Side

HOSTILE = "<img src=x onerror=alert(1)> cat"


@pytest.fixture(scope="module")
def inspector(memorised: Any) -> Inspector:
    return Inspector(open_model(memorised.pipe), memorised.ordinary, false_positive_rate=0.07, progress=False)


@pytest.mark.trains
def test_a_memorised_prompt_is_flagged_and_an_ordinary_one_is_not(inspector: Inspector, memorised: Any) -> None:
    quiet = memorised.ordinary[-1]
    found, other = inspector.inspect(memorised.prompt), inspector.inspect(quiet)
    assert found.flagged and not other.flagged and found.score > other.score
    assert [word.text for word in found.words] == memorised.prompt.split()
    told, quiet_told = inspector.card(Side(found)), inspector.card(Side(other))
    assert "Its score stands out" in told and "does not stand out" in quiet_told and "Memorised" not in told
    assert "Magnitude" in told and "a memorised prompt may score like any other" in quiet_told, "there is no base"
    again = inspector.inspect(quiet, noise_of=memorised.prompt)
    assert again.score != other.score, "another wording is measured with the original's noise"


@pytest.mark.trains
def test_text_stays_text(inspector: Inspector) -> None:
    card = inspector.card(Side(inspector.inspect(HOSTILE)))
    assert "<img" not in card and "&lt;img" in card


@pytest.mark.trains
def test_limits_hold_without_the_page(inspector: Inspector) -> None:
    with pytest.raises(ValueError, match="empty"):
        inspector.inspect("  ")
    with pytest.raises(ValueError, match=f"{MAX_CHARACTERS + 1} characters"):
        inspector.inspect("a" * (MAX_CHARACTERS + 1))
    with pytest.raises(ValueError, match="images = 5: must be a whole number from 1 to 4"):
        inspector.draw("a cat", 5, 2, lambda *_: None)
    with pytest.raises(ValueError, match="steps = 1.5"):
        limited("steps", 1.5)
    with pytest.raises(ValueError, match="updates = 1000"):
        inspector.minimise("a cat", 1, 2, 1000, lambda *_: None)


@pytest.mark.trains
def test_drawing_reports_and_uses_the_noise_of_the_score(inspector: Inspector, memorised: Any) -> None:
    seen: list[float] = []
    images = inspector.draw(memorised.prompt, 2, 3, lambda share, _: seen.append(share))
    assert images.shape == (2, 3, 16, 16) and seen == pytest.approx([1 / 3, 2 / 3, 1])
    assert not torch.equal(images[0], images[1])
    result, before, after = inspector.minimise(memorised.prompt, 2, 3, 5, lambda *_: None)
    assert torch.allclose(before, images, atol=1e-4) and not torch.allclose(after, before, atol=1e-4)
    assert max(result.value) < max(result.trace[0])
    assert [image.size for image in pictures(images)] == [(192, 192)] * 2
