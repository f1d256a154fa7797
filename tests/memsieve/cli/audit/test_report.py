"""``memsieve audit report``: the page's path for programs, and the options that reach the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.filtering.audit.written import row, write_audit
from tests.memsieve.auditing import run


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """Three pairs, ranked one way by the magnitude and the other way by the loss; their shard is gone."""
    rows = [row(name, [float(i)] * 2) for i, name in enumerate("abc", 1)]
    return write_audit(tmp_path / "audit", rows)


def test_the_path_of_the_page_is_all_that_standard_output_holds(audit: Path, tmp_path: Path) -> None:
    result = run("report", audit)
    assert result.exit_code == 1, "as of status: the shard is gone"
    assert result.stdout == f"{audit / 'report.html'}\n" and (audit / "summary.json").is_file()
    result = run("report", audit, "--out", tmp_path / "pages" / "a.html")
    assert result.stdout == f"{tmp_path / 'pages' / 'a.html'}\n"
    assert (tmp_path / "pages" / "summary.json").is_file(), "a summary lies beside its page"


def test_ranked_by_what_score_names_and_as_long_as_top_says(audit: Path) -> None:
    def ranked(*words: object) -> list[str]:
        assert run("report", audit, *words).stdout
        text = (audit / "report.html").read_text()
        found = [name for name in "abc" if f"a {name}<" in text]
        return sorted(found, key=lambda name: text.index(f"a {name}<"))

    assert ranked("--score", "magnitude") == ["c", "b", "a"]
    assert ranked("--score", "loss") == ["a", "b", "c"], "less of it is more suspicious"
    assert ranked("--score", "magnitude", "--top", 1) == ["c"]
    assert ranked("--score", "magnitude", "--top", 0) == []
    assert json.loads((audit / "summary.json").read_text())["signal"] == "magnitude"
    assert run("report", audit, "--top", -1).exit_code == 2
