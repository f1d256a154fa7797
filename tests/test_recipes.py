"""docs/recipes and docs/other-trainers.md: patches that are short, and whose lines call what there is.

The loops of diffusers' scripts are run, from latents on, by tests/filtering/in_loop. With DIFFUSERS_REPO, a checkout of
huggingface/diffusers at the commit that the page names, the patches are applied to it here.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from memsieve import LoopFilter, content_key

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "other-trainers.md").read_text()
PATCHES = sorted((ROOT / "docs" / "recipes").glob("*.patch"))
CALLS = {"LoopFilter": LoopFilter, "sieve.loss": LoopFilter.loss, "content_key": content_key}


def added(patch: Path) -> list[str]:
    return [line[1:] for line in patch.read_text().splitlines() if line.startswith("+") and not line.startswith("+++")]


def check_calls(code: str) -> set[str]:
    """The calls of ours in ``code``, each of which must fit what it calls."""
    found = set()
    for node in ast.walk(ast.parse(textwrap.dedent(code))):
        name = ast.unparse(node.func).removeprefix("self.") if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and name in CALLS:
            first = [None] if name == "sieve.loss" else []
            names = [word.arg for word in node.keywords if word.arg]
            inspect.signature(CALLS[name]).bind(*first, *node.args, **dict.fromkeys(names))
            found.add(name)
    return found


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_patch_adds_at_most_eight_lines_which_call_what_there_is(patch: Path) -> None:
    lines = added(patch)
    assert 4 <= len(lines) <= 8
    (told,) = re.findall(rf"\| \[patch\]\(recipes/{re.escape(patch.name)}\) \| (\d+) \|", PAGE)
    assert int(told) == len(lines)
    # Lines of a dictionary or an argument are no statements by themselves.
    whole = [line for line in lines if not re.match(r'\s*"key":', line)]
    assert set().union(*(check_calls(line) for line in whole if "return {" not in line)) == set(CALLS)
    assert sum("sieve.loss(" in line for line in lines) >= 1 and any('"key": [' in line for line in lines)


def test_every_patch_is_on_the_page_and_the_main_families_have_one() -> None:
    assert set(re.findall(r"\]\(recipes/([\w.]+)\)", PAGE)) == {patch.name for patch in PATCHES}
    names = " ".join(patch.stem for patch in PATCHES)
    for wanted in ("text_to_image", "lora_sdxl", "flux2_klein", "z_image", "qwen_image"):
        assert wanted in names


def test_the_code_of_the_page_calls_what_there_is() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 5
    assert set().union(*(check_calls(block) for block in blocks)) >= {"LoopFilter", "sieve.loss"}


@pytest.mark.skipif("DIFFUSERS_REPO" not in os.environ, reason="DIFFUSERS_REPO names no checkout of diffusers")
@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_patch_applies_and_leaves_a_script_that_compiles(patch: Path, tmp_path: Path) -> None:
    (name,) = re.findall(r"^\+\+\+ b/(.*)$", patch.read_text(), re.MULTILINE)
    copy = tmp_path / name
    copy.parent.mkdir(parents=True)
    copy.write_text((Path(os.environ["DIFFUSERS_REPO"]) / name).read_text())
    subprocess.run(["git", "apply", "--unsafe-paths", f"--directory={tmp_path}", str(patch)], check=True, cwd="/")
    compile(copy.read_text(), name, "exec")
    assert "sieve.loss(" in copy.read_text()
