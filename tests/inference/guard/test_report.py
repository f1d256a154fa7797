"""The random state that a guard puts back."""

from __future__ import annotations

import pytest
import torch

from memsieve.inference.guard.report import random_state, restore_random_state


@pytest.mark.parametrize("kind", ["one", "list", "global"])
def test_what_was_drawn_is_drawn_again(kind: str) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    given = {"one": generators[0], "list": generators, "global": None}[kind]
    used = {"one": generators[:1], "list": generators, "global": [None]}[kind]
    before = random_state(given)
    first = [torch.randn(3, generator=generator) for generator in used]
    restore_random_state(before, given)
    assert all(torch.equal(x, torch.randn(3, generator=g)) for x, g in zip(first, used, strict=True))
