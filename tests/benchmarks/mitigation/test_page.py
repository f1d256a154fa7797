"""What the page says of ways, of models that copy and of one that does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mitigation.page import write_page
from benchmarks.mitigation.ways import NONE


def row(copies: list[float], alignment: list[float], attacked: bool = True) -> dict[str, Any]:
    searched = {"copies": [0.5, 0.7], "own": [1.0, 0.8]} if attacked else None
    return {"copies": copies, "own": copies, "alignment": alignment, "attacked": searched}


def written(folder: Path, models: dict[str, dict[str, Any]]) -> str:
    asked = {
        "images": 8, "settings": {"schedule_steps": 20, "guidance_scale": 3.0}, "attack": {"updates": 50},
        "prompts": ["a", "b"],
    }  # fmt: skip
    for name, ways in models.items():
        found = {"asked": asked, "plant": ["2x400"], "ways": ways}
        (folder / f"mitigate-{name}.json").write_text(json.dumps(found))
    write_page(folder / "page.md", folder)
    return (folder / "page.md").read_text()


@pytest.mark.parametrize(("second", "named"), [([0.9, 0.9], "*mix, 1/2*, *mix, 1/4*"), ([0.9, 0.7], "*mix, 1/2*")])
def test_a_way_that_meets_the_aim_on_all_models_is_named(tmp_path: Path, second: list[float], named: str) -> None:
    models = {
        name: {
            NONE: row([0.8, 0.6], [0.9, 0.9]),
            "mix, 1/2": row([0.0, 0.1], [0.85, 0.9]),
            "mix, 1/4": row([0.0, 0.0], alignment),
            "4 random tokens": row([0.4, 0.6], [0.9, 0.9], attacked=False),
        }
        for name, alignment in (("one", [0.9, 0.9]), ("two", second))
    }
    page = written(tmp_path, models)
    assert f"On all of 2 models that copy: {named}.\n" in page
    assert "8 images each" in page and "20 steps, guidance" in page and page.count("| 0.60 | 0.90 |") == 6
    (line,) = {line for line in page.splitlines() if line.startswith("| 4 random tokens |")}
    assert line.endswith("|  |  |"), "no words can be put into an embedding"


def test_where_nothing_copies_nothing_can_be_stopped(tmp_path: Path) -> None:
    page = written(tmp_path, {"plain": {NONE: row([0.0, 0.0], [0.9, 0.9]), "delay": row([0.0, 0.0], [0.9, 0.9])}})
    assert "nothing can be stopped" in page and "nothing was copied" in page and "On all of" not in page
