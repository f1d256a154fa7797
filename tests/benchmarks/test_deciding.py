"""The digest of the code that decides covers every module that the filter stands on, by name."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from benchmarks.common import ROOT
from benchmarks.deciding import AT_THE_LOADER, BY_DRAWINGS, IN_EVERY_RUN, THE_FILTER, code_of_decisions

LISTED = (*THE_FILTER, *IN_EVERY_RUN, *AT_THE_LOADER, *BY_DRAWINGS)
IN_DATA = "filtering/data/"


def file_of(name: str) -> str | None:
    """The file of a module of memsieve, from the root; None for what is no module."""
    place = name.replace(".", "/").removeprefix("memsieve/")
    for file in (f"{place}.py", f"{place}/__init__.py"):
        if name.startswith("memsieve.") and (ROOT / file).is_file():
            return file
    return None


def imports_of(file: str) -> set[str]:
    """Files of memsieve that ``file`` imports, at any depth of it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {file_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}, line {node.lineno}: what a relative import leads to is not followed here"
            inside = [file_of(f"{node.module}.{alias.name}") for alias in node.names]
            found |= {part or file_of(node.module or "") for part in inside}
    return {name for name in found if name is not None}


def stands_on(file: str, within: str = "") -> set[str]:
    """``file`` and all that it imports, directly or by others, below the folder ``within``."""
    seen, waiting = set(), [file]
    while waiting:
        now = waiting.pop()
        if now not in seen and now.startswith(within):
            seen.add(now)
            waiting += imports_of(now)
    return seen


def test_every_listed_module_is_there_and_listed_once() -> None:
    missing = [name for name in LISTED if not (ROOT / name).is_file()]
    assert not missing, f"benchmarks/deciding.py lists {', '.join(missing)}; name where it is now"
    assert len(set(LISTED)) == len(LISTED)


@pytest.mark.parametrize(
    ("start", "within", "listed"),
    [
        ("filtering/filter.py", "", THE_FILTER),
        ("filtering/data/loader.py", IN_DATA, (*AT_THE_LOADER, *IN_EVERY_RUN)),
    ],
)
def test_nothing_that_decides_is_left_out(start: str, within: str, listed: tuple[str, ...]) -> None:
    found = stands_on(start, within)
    assert len(found) > 1, "nothing was followed"
    left_out = sorted(found - set(listed))
    assert not left_out, f"{start} stands on {', '.join(left_out)}, which benchmarks/deciding.py does not list"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in LISTED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def digests(root: Path) -> tuple[str, str]:
    """In the batch and at the loader."""
    code_of_decisions.cache_clear()
    return code_of_decisions(at_the_loader=False, root=root), code_of_decisions(at_the_loader=True, root=root)


def change(file: Path, more: str) -> None:
    file.write_text(file.read_text(encoding="utf-8") + more, encoding="utf-8")


def test_words_are_no_decisions(copy: Path) -> None:
    before = digests(copy)
    assert before == digests(ROOT) and before[0] != before[1]
    change(copy / "filtering/filter.py", '\n\n# Another comment.\n"""Other words."""\n')
    assert digests(copy) == before


@pytest.mark.parametrize("name", [THE_FILTER[0], THE_FILTER[-1], IN_EVERY_RUN[-1]])
def test_what_the_filter_said_before_it_changed_is_no_result_now(copy: Path, name: str) -> None:
    before = digests(copy)
    change(copy / name, "\n\nBAR = 2\n")
    assert all(now != then for now, then in zip(digests(copy), before, strict=True))


def test_the_loader_has_its_say_at_the_loader_alone(copy: Path) -> None:
    assert "filtering/data/loader_sieve.py" in AT_THE_LOADER
    for name in (AT_THE_LOADER[0], AT_THE_LOADER[-1]):
        before = digests(copy)
        change(copy / name, "\n\nBAR = 2\n")
        now = digests(copy)
        assert now[0] == before[0] and now[1] != before[1], name


def test_a_module_that_has_moved_is_missed(copy: Path) -> None:
    (copy / "filtering/filter.py").rename(copy / "filtering/elsewhere.py")
    with pytest.raises(FileNotFoundError, match=r"filtering/filter\.py"):
        digests(copy)


def test_what_asks_the_model_has_its_say_where_drawings_decide(copy: Path) -> None:
    def by_drawings() -> str:
        code_of_decisions.cache_clear()
        return code_of_decisions(False, True, root=copy)

    before, others = by_drawings(), digests(copy)
    change(copy / "train/recall.py", "\n\nBAR = 2\n")
    assert by_drawings() != before and digests(copy) == others and before not in others
