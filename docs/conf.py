"""How scripts/docs builds the pages of this folder into a site; the pages are plain Markdown and read without it."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
project = "memsieve"
author = "the memsieve developers"
release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]

extensions = ["myst_parser", "sphinx_external_toc"]
external_toc_path = "contents.yml"
exclude_patterns = ["benchmarks"]  # numbers, from which pages are made

myst_heading_anchors = 4  # links name a heading as GitHub does
suppress_warnings = ["myst.header"]  # pages made from numbers may skip a level

html_theme = "furo"
html_title = f"memsieve {release}"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
