"""Pages escape what they are given."""

from __future__ import annotations

import pytest

from memsieve.inference.templates import render


def test_values_are_escaped() -> None:
    match = {"name": "<script>alert(1)</script>", "error": "<b>no</b>"}
    page = render(
        "matches.html", shown=[], total=1, failed=[match], similarity="<i>", entries=1, copies=0, decided=True
    )
    assert "<script" not in page and "<b>no" not in page and "&lt;b&gt;no" in page


def test_a_page_that_is_not_there() -> None:
    with pytest.raises(LookupError, match=r"no\.html"):
        render("no.html")
