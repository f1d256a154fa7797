"""The picture that the README opens with: what three models draw for repeated pictures and for new captions.

    python -m benchmarks.copying.picture            docs/copies.png, of the cells of seed 0

Which pairs are shown is not chosen by what came out: they are the first by name of each kind of repetition at the most
exposures, and of the held-out captions; of each the first drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from PIL import Image, ImageDraw

from benchmarks.common import NUMBERS, PAGES, RUNS
from benchmarks.copying.cell import data_of
from benchmarks.copying.plan import Cell, Plan
from memsieve.filtering.data.decode import to_picture
from memsieve.inference.copies.probe import shard_images

__all__ = ["ROWS", "draw_picture", "shown_pairs"]

ROWS: Final = {"base": "base model", "none": "no filter", "ours_sieve": "memsieve"}
EXACT, OTHER, NEW = 2, 2, 8
"""Pairs that are shown of exact repeats, of each other kind, and of the new captions."""
SIDE, GAP, MARGIN, HEAD, LINE = 96, 8, 118, 30, 18
COPY: Final = "#d00000"


def main(
    seed: Annotated[int, typer.Option(help="Whose cells are shown.")] = 0,
    results: Annotated[Path, typer.Option(help="The JSONs.")] = NUMBERS / "copying",
    work: Annotated[Path, typer.Option(help="Data and drawings.")] = RUNS / "copying",
    out: Annotated[Path, typer.Option(help="The picture.")] = PAGES / "copies.png",
) -> None:
    """Draw it, of what ``scripts/bench copying`` has left on this machine."""
    draw_picture(Plan(work, results), seed, out)


def shown_pairs(drawn: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Names of the repeated pairs that are shown, and of the held-out ones.

    Args:
        drawn: a cell's, by pair.
    """
    planted: dict[str, dict[int, list[str]]] = {}
    for name, told in sorted(drawn.items()):
        kind, _, exposures = told["case"].rpartition(" ")
        if kind:
            planted.setdefault(kind, {}).setdefault(int(exposures), []).append(name)
    repeated = [
        name
        for kind in ("exact", *sorted(set(planted) - {"exact"}))
        if kind in planted
        for name in planted[kind][max(planted[kind])][: EXACT if kind == "exact" else OTHER]
    ]
    return repeated, sorted(name for name, told in drawn.items() if told["case"] == "held_out")[:NEW]


def draw_picture(plan: Plan, seed: int, out: Path) -> None:
    """Two blocks beside each other, a row a model, the real pictures on top; copies by the strict judge are framed.

    Raises:
        ValueError: a cell, or what its model drew, is not there.
    """
    cells = {}
    for method in ROWS:
        cell = Cell(method, "mixed", seed)
        found = plan.result(cell)
        if found is None or not plan.drawn_file(cell).is_file():
            raise ValueError(f"'{plan.drawn_file(cell)}' is not there: run scripts/bench copying --methods {method}")
        cells[method] = (found["drawn"], torch.load(plan.drawn_file(cell), weights_only=True))
    blocks = shown_pairs(next(iter(cells.values()))[0])
    real = _real(data_of(plan, Cell("none", "mixed", seed)), {name for names in blocks for name in names})
    widths = [len(names) * (SIDE + GAP) + 2 * GAP for names in blocks]
    sheet = Image.new("RGB", (MARGIN + sum(widths), HEAD + (len(ROWS) + 1) * (SIDE + GAP) + LINE), "white")
    pen, left = ImageDraw.Draw(sheet), MARGIN
    for names, width, title in zip(blocks, widths, ("repeated pictures", "new captions"), strict=True):
        pen.text((left, 6), title, fill="black", font_size=16)
        _block(sheet, left, names, real, cells)
        left += width
    for number, said in enumerate(("real picture", *ROWS.values())):
        pen.text((8, HEAD + number * (SIDE + GAP) + SIDE // 2 - 8), said, fill="black", font_size=15)
    pen.rectangle((MARGIN, sheet.height - LINE, MARGIN + 12, sheet.height - LINE + 11), outline=COPY, width=3)
    pen.text((MARGIN + 18, sheet.height - LINE - 1), "a copy of the training picture", fill="black", font_size=12)
    sheet.save(out)


def _block(sheet: Image.Image, left: int, names: Sequence[str], real: dict[str, Image.Image], cells: Any) -> None:
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        x = left + column * (SIDE + GAP)
        sheet.paste(real[name].resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, HEAD))
        for row, (told, kept) in enumerate(cells.values(), start=1):
            y = HEAD + row * (SIDE + GAP)
            pixels = kept["drawn"][kept["pairs"].index(name), 0]
            image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (x, y))
            if told[name].get("copies pixel_l2", [0])[0]:
                pen.rectangle((x - 3, y - 3, x + SIDE + 2, y + SIDE + 2), outline=COPY, width=3)


def _real(data: Path, wanted: set[str]) -> dict[str, Image.Image]:
    """The first picture of each pair in the shards; of families and templates that is one of many."""
    truth = pq.read_table(data / "truth.parquet").to_pylist()
    found: dict[str, Image.Image] = {}
    for part in ("stream", "held_out"):
        of = {row["key"]: row["pair"] for row in truth if row["part"] == part and row["pair"] in wanted}
        for key, pixels in shard_images(data / part):
            if key in of and of[key] not in found:
                found[of[key]] = to_picture(pixels)
    return found


if __name__ == "__main__":
    typer.run(main)
