"""Every module of benchmarks/ and scripts/ finds what it imports: most of them run too long for a test."""

from __future__ import annotations

from importlib import import_module

import pytest

from benchmarks.common import ROOT

MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for folder in ("benchmarks", "scripts")
    for file in (ROOT / folder).rglob("*.py")
    if file.name != "__init__.py"
)


def test_there_are_modules() -> None:
    assert len(MODULES) > 40


@pytest.mark.parametrize("module", MODULES)
def test_a_module_can_be_imported(module: str) -> None:
    import_module(module)
