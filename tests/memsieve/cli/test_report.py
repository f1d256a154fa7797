"""``memsieve report``: the page's path for programs, and where the page lies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from memsieve.cli import app
from tests.memsieve.pages.test_run import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "one", steps=60, groups=4, planted=1)


def test_the_path_of_the_page_is_all_that_is_said(run: Path, tmp_path: Path) -> None:
    for words, page in (([], run / "report.html"), (["--out", str(tmp_path / "a.html")], tmp_path / "a.html")):
        done = CliRunner().invoke(app, ["report", str(run), *words])
        assert done.exit_code == 0 and done.output == f"{page}\n" and page.is_file()


def test_a_comparison_is_shown_where_one_is_named(run: Path, tmp_path: Path) -> None:
    rows = [{"name": "a rival of ours", "copy_rate": 0.5, "low": 0.3, "high": 0.7}]
    (tmp_path / "rates.json").write_text(json.dumps({"rows": rows}))
    words = ["report", str(run), "--out", str(tmp_path / "a.html"), "--comparison"]
    assert CliRunner().invoke(app, [*words, str(tmp_path / "rates.json")]).exit_code == 0
    assert "a rival of ours" in (tmp_path / "a.html").read_text()
    missing = CliRunner().invoke(app, [*words, str(tmp_path / "none.json")])
    assert isinstance(missing.exception, ValueError) and "could not be read" in str(missing.exception)
