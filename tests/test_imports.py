"""Which package may import which: filtering <- inference <- train <- memsieve, and what filtering stays clear of."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = ["filtering", "inference", "train", "memsieve"]
"""Each package may import itself and those before it."""
BANNED = {"filtering": {"accelerate", "deepspeed", "wandb"}}
"""The signal and the decision must be usable without the training stack."""


def imported_names(source: str, package: str) -> list[tuple[int, str]]:
    """Line and dotted name of everything that ``source``, a module inside ``package``, imports, at any depth of it."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            found.append((node.lineno, base))
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0]
            if called in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                found.append((node.lineno, str(first.value)))
    return found


def violations(source: str, package: str) -> list[str]:
    """What is wrong with the imports of ``source``, a module inside the dotted ``package``."""
    top = package.split(".")[0]
    later = set(ORDER[ORDER.index(top) + 1 :])
    banned = BANNED.get(top, set())
    wrong = []
    for line, name in imported_names(source, package):
        root = name.split(".")[0]
        if root in later:
            wrong.append(f"line {line}: {top} must not import {name}; the order is {' <- '.join(ORDER)}")
        elif root in banned:
            wrong.append(f"line {line}: {top} must not import {name}")
        elif root in {"tests", "scripts"}:
            wrong.append(f"line {line}: {top} must not import {name}; it is no part of the package")
    return wrong


@pytest.mark.parametrize("package", ORDER)
def test_package_imports_only_what_it_may(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 0, f"no module found in {package}/"
    wrong = []
    for file in files:
        inside = ".".join(file.parent.relative_to(ROOT).parts)
        wrong += [f"{file.relative_to(ROOT)} {w}" for w in violations(file.read_text(encoding="utf-8"), inside)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("filtering", "import train"),
        ("filtering", "import torch, memsieve.cli as cli"),
        ("filtering", "from inference.report import thing"),
        ("filtering.data", "def later():\n    from wandb import log"),
        ("filtering.data", "if True:\n    import accelerate.utils"),
        ("filtering", "try:\n    import deepspeed\nexcept ImportError:\n    pass"),
        ("filtering", "import importlib\nimportlib.import_module('train.fit')"),
        ("inference", "from train.fit import fit"),
        ("train", "import memsieve"),
        ("memsieve", "from tests import helpers"),
    ],
)
def test_forbidden_imports_are_seen(package: str, source: str) -> None:
    assert len(violations(source, package)) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("filtering", "import torch\nimport filtering.settings"),
        ("filtering.data", "from . import rows\nfrom ..settings import Settings\nfrom .. import train"),
        ("filtering", "import trainer, training.loop, memsieves"),
        ("train", "import accelerate, deepspeed, wandb\nfrom filtering import settings\nfrom inference import audit"),
        ("memsieve", "from train import fit\nfrom inference import audit\nfrom filtering import data"),
        ("filtering", "text = 'import train'"),
    ],
)
def test_allowed_imports_pass(package: str, source: str) -> None:
    assert violations(source, package) == []
