"""Which code a measurement is of: numbers made by other decisions are no result of this filter."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

__all__ = ["code_of_decisions", "stamped"]

MEASURED_AT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks" / "measured_at.txt"
"""The revision that all published numbers are of, where the code that decides has changed since; gone once they are
measured anew."""
FILTERING = Path(__file__).resolve().parent.parent / "filtering"


@cache
def code_of_decisions(folder: Path = FILTERING) -> str:
    """A digest of the modules that decide, comments and docstrings apart: what they said earlier is no result now."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        if file.name in ("__init__.py", "ledger.py"):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
        digest.update(f"{file.name} {ast.dump(tree)}".encode())
    return digest.hexdigest()[:16]


def stamped(page: str) -> str:
    """``page`` with the revision that its numbers are of under its first headline."""
    if not MEASURED_AT.is_file():
        return page
    revision = MEASURED_AT.read_text(encoding="utf-8").strip()
    said = f"*All numbers on this page were measured with revision {revision}; the code has changed since.*"
    return page.replace("\n\n", f"\n\n{said}\n\n", 1)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
