"""Which settings of the guard are refused."""

from __future__ import annotations

from typing import Any

import pytest

from memsieve.inference.guard.settings import GuardSettings
from memsieve.inference.minimize.settings import MinimizeSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fall": 0.0}, "fall = 0: must be above 0 and at most 1"),
        ({"fall": 1.5}, "fall = 1.5"),
        ({"minimize": MinimizeSettings(tokens="words")}, "minimize.tokens = 'words': must be all"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GuardSettings(**settings)
