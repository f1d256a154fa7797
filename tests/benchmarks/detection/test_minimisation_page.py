"""What the page says of ways to minimise: aims that are missed are said to be, and so is what cannot be measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.detection.minimisation_page import SHIPPED, verdict_on_ways, ways_to_minimise
from benchmarks.detection.page import kept


def written(folder: Path, before: list[float], copies: list[float], alignment: list[float]) -> Path:
    def row(copied: list[float], fits: list[float], **more: Any) -> dict[str, Any]:
        return {"copies": copied, "alignment": fits, **more}

    whole = [0.8] * len(before)
    ways = {"as it was": row(before, whole), "empty prompt": row([0.0] * len(before), [0.1] * len(before)),
            "before fine-tuning": row([0.0] * len(before), whole),
            SHIPPED: row(copies, alignment, met=[1.0], change=[0.2])}  # fmt: skip
    found = {"asked": {"images": 8, "settings": {"schedule_steps": 50}}, "prompts": ["a"] * len(before),
             "plant": ["2x1000"], "encoder": {"held_out_8_way": 0.9}, "ways": ways}  # fmt: skip
    (folder / "minimize-one.json").write_text(json.dumps(found))
    return folder


@pytest.mark.parametrize(
    ("copies", "alignment", "said"),
    [
        ([0.0, 0.2], [0.7, 0.7], "80 % of the copies gone and 87 % of the alignment kept, both met"),
        ([0.0, 0.3], [0.8, 0.8], "70 % of the copies gone and 100 % of the alignment kept, **not both met**"),
        ([0.0, 0.0], [0.6, 0.6], "100 % of the copies gone and 75 % of the alignment kept, **not both met**"),
    ],
)
def test_the_shipped_way_is_held_against_both_aims(
    tmp_path: Path, copies: list[float], alignment: list[float], said: str
) -> None:
    (told,) = verdict_on_ways(written(tmp_path, [0.5, 0.5], copies, alignment), kept)
    assert f"on `one` {said}" in told


def test_of_a_model_that_copied_nothing_nothing_is_gone(tmp_path: Path) -> None:
    written(tmp_path, [0.0, 0.0], [0.0, 0.0], [0.8, 0.8])
    (told,) = verdict_on_ways(tmp_path, kept)
    assert "on `one` nothing was copied, so that nothing can be gone" in told and "met" not in told
    table = "\n".join(ways_to_minimise(tmp_path, kept))
    assert f"| {SHIPPED} | 100 % | 0.20 | 0.00 | nothing was copied | 0.80 |" in table and "nan" not in table


def test_no_numbers_no_section(tmp_path: Path) -> None:
    assert ways_to_minimise(tmp_path, kept) == verdict_on_ways(tmp_path, kept) == []
