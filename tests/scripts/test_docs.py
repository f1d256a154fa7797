"""scripts/docs: every page is in the site and in the index, and a link that leads nowhere is a failure."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def built(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-b", "html", "--quiet", "--fail-on-warning", "--keep-going",
               "--doctree-dir", str(out.parent / "doctrees"), str(docs), str(out)]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_every_page_is_in_the_contents_and_in_the_index() -> None:
    pages = {file.stem for file in (ROOT / "docs").glob("*.md")} - {"index"}
    contents = yaml.safe_load((ROOT / "docs" / "contents.yml").read_text())
    assert {entry["file"] for part in contents["subtrees"] for entry in part["entries"]} == pages
    index = (ROOT / "docs" / "index.md").read_text()
    assert {Path(link).stem for link in LINK.findall(index)} == pages


def test_the_readme_s_links_lead_somewhere() -> None:
    for link in LINK.findall((ROOT / "README.md").read_text()):
        assert "://" in link or (ROOT / link).exists(), link


@pytest.mark.slow
def test_the_site_is_built_and_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = built(tmp_path / "docs", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "index.html").read_text()
    assert "<table" in page and 'href="glossary.html' in page
    with (tmp_path / "docs" / "scale.md").open("a") as file:
        file.write("\n[a page](nowhere.md) and [a heading](glossary.md#nowhere)\n")
    done = built(tmp_path / "docs", tmp_path / "site")
    assert done.returncode == 1 and "nowhere.md" in done.stderr and "'glossary': 'nowhere'" in done.stderr
