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
    top = package_of(package)
    later = set(ORDER[ORDER.index(top) + 1 :])
    banned = BANNED.get(top, set())
    wrong = []
    for line, name in imported_names(source, package):
        root = name.split(".")[0]
        if root in ORDER[:-1]:
            wrong.append(f"line {line}: {name} is somebody else's name; ours is memsieve.{name}")
        elif root == "memsieve" and package_of(name) in later:
            wrong.append(f"line {line}: {top} must not import {name}; the order is {' <- '.join(ORDER)}")
        elif root in banned:
            wrong.append(f"line {line}: {top} must not import {name}")
        elif root in {"tests", "scripts"}:
            wrong.append(f"line {line}: {top} must not import {name}; it is no part of the package")
    return wrong


def package_of(name: str) -> str:
    """Which of ``ORDER`` a dotted name below memsieve belongs to."""
    second = name.split(".")[1] if "." in name else ""
    return second if second in ORDER else "memsieve"


@pytest.mark.parametrize("package", ORDER)
def test_package_imports_only_what_it_may(package: str) -> None:
    files = sorted(file for file in (ROOT / package).rglob("*.py") if file.resolve() == file)
    assert len(files) > 0, f"no module found in {package}/"
    wrong = []
    for file in files:
        inside = ".".join(file.parent.relative_to(ROOT).parts)
        inside = inside if package == "memsieve" else f"memsieve.{inside}"
        wrong += [f"{file.relative_to(ROOT)} {w}" for w in violations(file.read_text(encoding="utf-8"), inside)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("memsieve.filtering", "import train"),
        ("memsieve.filtering", "from filtering.settings import Settings"),
        ("memsieve.filtering", "import torch, memsieve.cli as cli"),
        ("memsieve.filtering", "from memsieve import MemorizationFilter"),
        ("memsieve.filtering", "from memsieve.inference.report import thing"),
        ("memsieve.filtering.data", "def later():\n    from wandb import log"),
        ("memsieve.filtering.data", "if True:\n    import accelerate.utils"),
        ("memsieve.filtering", "try:\n    import deepspeed\nexcept ImportError:\n    pass"),
        ("memsieve.filtering", "import importlib\nimportlib.import_module('memsieve.train.fit')"),
        ("memsieve.inference", "from memsieve.train.fit import fit"),
        ("memsieve.train", "import memsieve"),
        ("memsieve", "from tests import helpers"),
    ],
)
def test_forbidden_imports_are_seen(package: str, source: str) -> None:
    assert len(violations(source, package)) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("memsieve.filtering", "import torch\nimport memsieve.filtering.settings"),
        ("memsieve.filtering.data", "from . import rows\nfrom ..settings import Settings\nfrom .. import train"),
        ("memsieve.filtering", "import trainer, training.loop, memsieves"),
        (
            "memsieve.train",
            "import accelerate, wandb\nfrom memsieve.filtering import data\nimport memsieve.inference.x",
        ),
        ("memsieve", "from memsieve.train import fit\nimport memsieve.filtering\nfrom memsieve import __version__"),
        ("memsieve.filtering", "text = 'import train'"),
    ],
)
def test_allowed_imports_pass(package: str, source: str) -> None:
    assert violations(source, package) == []


FOLDERS = {
    "": {"evidence", "rules"},
    "evidence": set(),
    "rules": {"evidence"},
    "denoisers": set(),
    "data": {"evidence"},
    "audit": {"evidence", "data", "denoisers"},
}
"""Which folders of filtering/ each of them may import, besides itself; "" stands for the files at its top. What decides
knows neither data nor models, data and models know nothing of each other, and an audit is known to none of them."""


def strays(source: str, folder: str) -> list[str]:
    """What ``source``, a module in ``folder`` of filtering/, imports from folders that it must not know."""
    package = ".".join(["memsieve", "filtering", *([folder] if folder else [])])
    inside = "memsieve.filtering."
    names = [(line, name.removeprefix(inside)) for line, name in imported_names(source, package) if inside in name]
    taken = [(line, name, name.split(".")[0]) for line, name in names]
    known = FOLDERS[folder] | {folder}
    return [f"line {line}: {name}" for line, name, first in taken if first in FOLDERS and first not in known]


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_of_filtering_import_only_what_they_may(folder: str) -> None:
    place = ROOT / "filtering" / folder
    files = sorted(place.rglob("*.py") if folder else place.glob("*.py"))
    assert len(files) > 0, f"no module found in {place}"
    wrong = [f"{file.relative_to(ROOT)} {stray}" for file in files for stray in strays(file.read_text("utf-8"), folder)]
    assert not wrong, "\n".join(wrong)


def test_every_folder_of_filtering_has_its_place_in_the_order() -> None:
    assert {file.parent.name for file in (ROOT / "filtering").glob("*/__init__.py")} == FOLDERS.keys() - {""}


def test_a_stray_import_inside_filtering_is_seen() -> None:
    assert strays("from memsieve.filtering.audit.table import Scores", "data") == ["line 1: audit.table"]
    assert strays("def later():\n    from ..data import rows", "denoisers") == ["line 2: data"]
    assert strays("import memsieve.filtering.data.rows", "") == ["line 1: data.rows"]
    assert strays("from memsieve.filtering.data.rows import Row\nfrom memsieve.filtering.files import x", "data") == []
