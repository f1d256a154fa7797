"""The README's picture: which pairs are shown, and which drawings are framed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.common import write_lines
from benchmarks.copying.picture import GAP, HEAD, MARGIN, ROWS, SIDE, draw_picture, shown_pairs
from benchmarks.copying.plan import Cell, Plan
from tests.benchmarks.copying.cells import TINY_PROTOCOL, fixture_cell
from tests.benchmarks.copying.conftest import TINY

Made = tuple[Path, list[dict[str, Any]]]


def cases_of(**counts: int) -> dict[str, Any]:
    return {f"{case} {i}": {"case": case.replace("_", " ", 1) if case != "held_out" else case}
            for case, count in counts.items() for i in range(count)}  # fmt: skip


def test_the_first_by_name_of_each_kind_at_its_most_exposures() -> None:
    drawn = cases_of(exact_20=3, exact_400=3, family_100=3, family_400=3, template_400=1, ordinary=5, held_out=20)
    repeated, new = shown_pairs(drawn)
    assert repeated == ["exact_400 0", "exact_400 1", "family_400 0", "family_400 1", "template_400 0"]
    assert new == sorted(name for name in drawn if name.startswith("held_out"))[:8]


def test_copies_are_framed_and_nothing_else(made: Made, tmp_path: Path) -> None:
    plan = Plan(tmp_path / "work", tmp_path / "results", TINY_PROTOCOL, {"mixed": TINY})
    (plan.work / "data").mkdir(parents=True)
    (plan.work / "data" / "mixed-seed1").symlink_to(made[0])
    with pytest.raises(ValueError, match="is not there: run scripts/bench copying --methods base"):
        draw_picture(plan, 1, tmp_path / "picture.png")
    first = {row["pair"]: row["case"] for row in made[1] if row["part"] in ("stream", "held_out")}
    for method in ROWS:
        cell = Cell(method, "mixed", 1)
        drawn = {name: {"case": case} for name, case in first.items()}
        for told in drawn.values():
            if told["case"] != "held_out":
                told["copies pixel_l2"] = [int(method == "none"), 1]  # type: ignore[assignment]
        write_lines(plan.file(cell), fixture_cell(plan, cell, 0.5, drawn=drawn))
        plan.drawn_file(cell).parent.mkdir(parents=True, exist_ok=True)
        grey = torch.full((len(first), 2, 3, 32, 32), 128, dtype=torch.uint8)
        torch.save({"pairs": list(first), "drawn": grey}, plan.drawn_file(cell))
    draw_picture(plan, 1, tmp_path / "picture.png")
    pixels = np.array(Image.open(tmp_path / "picture.png"))
    red = (pixels == (0xD0, 0, 0)).all(-1)
    repeated, new = shown_pairs(drawn)
    for row in range(len(ROWS)):
        y = HEAD + (row + 1) * (SIDE + GAP) - 2
        framed = [red[y, MARGIN + column * (SIDE + GAP) + 10] for column in range(len(repeated))]
        assert framed == [list(ROWS)[row] == "none"] * len(repeated)
        start = MARGIN + len(repeated) * (SIDE + GAP) + 2 * GAP
        assert not any(red[y, start + column * (SIDE + GAP) + 10] for column in range(len(new)))
