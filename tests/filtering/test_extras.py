"""What is said where a further package is missing works for the way in which memsieve was installed."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, PackageNotFoundError

import pytest

from memsieve.filtering.extras import install


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, "pip install 'memsieve[ui]'"),
        ({"url": "https://files.example/memsieve.whl", "archive_info": {}}, "pip install 'memsieve[ui]'"),
        ({"url": "file:///my%20work/memsieve.whl", "archive_info": {}}, "pip install 'memsieve[ui]'"),
        ({"url": "file:///my%20work/memsieve", "dir_info": {}}, "pip install '/my work/memsieve[ui]'"),
        ({"url": "file:///w", "dir_info": {"editable": True}}, "pip install -e '/w[ui]'"),
    ],
)
def test_as_it_was_installed(said: object, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if said is None else json.dumps(said)

    monkeypatch.setattr(Distribution, "from_name", lambda name: Installed())
    assert install("ui") == expected


def test_a_checkout_that_was_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Distribution:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(Distribution, "from_name", none)
    assert install("ui") == "pip install 'memsieve[ui]'"
