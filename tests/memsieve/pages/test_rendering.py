"""Every page: what is missing is an error, and scripts run by a nonce alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from memsieve.pages.rendering import render

TEMPLATES = Path(__file__).parents[3] / "memsieve" / "pages" / "templates"


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        render("audit.html", {"title": "an audit"})


def test_scripts_run_by_a_nonce_that_is_never_the_same_and_only_where_a_page_has_some() -> None:
    plain = render("page_head.html", {})
    assert "script-src" not in plain and "default-src 'none'" in plain
    found = [re.findall(r"script-src 'nonce-(\w+)'", render("page_head.html", {"scripts": True})) for _ in range(2)]
    assert all(len(nonces) == 1 for nonces in found) and found[0] != found[1]
    for name in ("audit.html", "groups.html", "report.html"):
        text = (TEMPLATES / name).read_text(encoding="utf-8")
        assert 'include "page_head.html"' in text
        assert ("<script" in text) == ("set scripts = true" in text), name
