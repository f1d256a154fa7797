"""The pipeline that copies is one from other seeds too, and where training falls short it is said how far it came."""

from __future__ import annotations

import pytest

from tests.inference.memorised import Premise, memorise

pytestmark = pytest.mark.trains
OTHER_SEEDS = (1, 2, 3, 4, 5)


@pytest.mark.slow
@pytest.mark.other_seeds
@pytest.mark.parametrize("seed", OTHER_SEEDS)
def test_it_copies_from_other_seeds_too(seed: int) -> None:
    made = memorise(seed)
    assert Premise.of(made).holds


def test_a_premise_that_is_not_reached_says_what_was() -> None:
    with pytest.raises(AssertionError, match=r"after 4 steps: Premise\(farthest=1\.\d+.*\nafter 6 steps: "):
        memorise(0, first=4, more=2, limit=6)
