"""Which settings of a minimisation are refused, and the learning rate of each method."""

from __future__ import annotations

from typing import Any

import pytest

from memsieve.inference.minimize.settings import METHODS, MinimizeSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "magic"}, "--method = 'magic': must be one of adamw, closest"),
        ({"tokens": "nouns"}, "--tokens = 'nouns': must be one of all, words, padding"),
        ({"iterations": -1}, "--iterations = -1: must be at least 0"),
        ({"lr": 0.0}, "--lr = 0: must be above 0"),
        ({"lr": float("nan")}, "--lr = nan: must be above 0"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MinimizeSettings(**settings)


@pytest.mark.parametrize("method", METHODS)
def test_the_learning_rate_is_the_methods_own_unless_given(method: str) -> None:
    assert MinimizeSettings(method=method).learning_rate == METHODS[method]
    assert MinimizeSettings(method=method, lr=0.5).learning_rate == 0.5
