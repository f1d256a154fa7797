"""The verdict of the page: one for score, drawings and training images together."""

from __future__ import annotations

from itertools import product

import pytest

from memsieve.inference.ui.verdict import Drawn, judged

DRAWN = (None, Drawn(4, None), Drawn(4, 0), Drawn(4, 1), Drawn(1, 1))


@pytest.mark.parametrize(("stands_out", "with_base", "drawn"), list(product((True, False), (True, False), DRAWN)))
def test_memorised_is_said_where_a_training_image_came_back_and_nowhere_else(
    stands_out: bool, with_base: bool, drawn: Drawn | None
) -> None:
    found = judged(stands_out, with_base, drawn)
    copied = drawn is not None and bool(drawn.copies)
    said = f"{found.headline} {found.remark}"
    assert (found.tone == "bad") == found.headline.startswith("Memorised") == copied
    assert ("none of" in said) == (drawn is not None and drawn.copies == 0)
    assert ("drawing it says more" in said or "draw it" in said) == (drawn is None)
    if not copied:
        assert found.tone == ("notable" if stands_out else "calm")
        assert ("does not stand out" in said) != stands_out
        assert ("may score like any other" in said) == (not with_base and not stands_out)
    elif not stands_out:
        assert "by the score alone it would have been missed" in said


def test_numbers_are_told_as_people_do() -> None:
    assert judged(True, True, Drawn(1, 1)).headline == "Memorised: 1 of 1 drawing copies a training image"
    assert judged(True, True, Drawn(4, 3)).headline == "Memorised: 3 of 4 drawings copy a training image"
