"""What the runs of the demonstration say beside each other: a table, a picture, numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from memsieve.filtering.data.decode import to_picture
from memsieve.filtering.files import write_json
from memsieve.inference.copies.probe import ProbeResult, Prompt, shard_images

__all__ = ["GUIDANCE", "SEEDS", "compare", "row_of", "show", "summarise"]

SEEDS = 4
GUIDANCE = 3.0


def row_of(name: str, probes: Any, others: Any, summaries: Any, folders: Any, data: Path) -> dict[str, Any]:
    """One line of the comparison."""
    rate, other = probes[name].rate, others[name].rate
    row: dict[str, Any] = {"name": name, "copy_rate": rate.rate, "low": rate.low, "high": rate.high,
                           "copy_rate_ordinary": other.rate}  # fmt: skip
    if name in summaries:
        summary = summaries[name]
        row |= {
            "steps": summary["steps"],
            "heldout_loss": summary["heldout_loss"],
            "step_seconds": summary["step_seconds_median"],
        }
        if summary.get("groups"):
            row["planted_dropped"], row["clean_dropped"] = dropped_fractions(folders[name], data)
    return row


def dropped_fractions(run: Path, data: Path) -> tuple[float, float]:
    """Share of planted and of clean groups that the run condemned; visits dropped for the per-visit rule."""
    planted = {row["group"] for row in pq.read_table(data / "truth.parquet").to_pylist() if row["repeats"] > 1}
    groups = pq.read_table(run / "groups.parquet").to_pylist()
    hit = {True: [0, 0], False: [0, 0]}
    for row in groups:
        counts = hit[row["group"] in planted]
        counts[0] += row["condemned_step"] >= 0 or row["dropped"] * 2 > row["exposures"]
        counts[1] += 1
    return hit[True][0] / max(len(planted), 1), hit[False][0] / max(hit[False][1], 1)


def compare(out: Path, rows: list[dict[str, Any]], planted: list[Prompt], data: Path, probes: Any) -> None:
    """comparison.json and its picture."""
    picture(out / "comparison.png", planted[:8], training_images(data, planted[:8]), probes)
    note = f"Copies of {len(planted)} planted pairs in {SEEDS} generations each, guidance {GUIDANCE}."
    write_json(out / "comparison.json", {"title": "Does it copy?", "note": note, "picture": "comparison.png",
                                         "rows": rows})  # fmt: skip


def picture(
    path: Path, prompts: list[Prompt], judge_images: dict[str, torch.Tensor], rows: dict[str, ProbeResult]
) -> None:
    """Training images on top, then one generation of each model for the same prompts and seeds."""
    side, label = 96, 190
    sheet = Image.new("RGB", (label + side * len(prompts), (side + 6) * (len(rows) + 1)), "white")
    draw = ImageDraw.Draw(sheet)
    for r, name in enumerate(["training image", *rows]):
        draw.text((8, r * (side + 6) + side // 2 - 6), name, fill="black", font_size=14)
        for i, prompt in enumerate(prompts):
            pixels = judge_images[prompt.group] if r == 0 else rows[name].generations[i * SEEDS]
            image = tile(pixels).resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(image, (label + i * side, r * (side + 6)))
    sheet.save(path)


def tile(pixels: torch.Tensor, scale: int = 2) -> Image.Image:
    """One image of [3, H, W] in [-1, 1]."""
    image = to_picture(pixels)
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)


def training_images(data: Path, prompts: list[Prompt]) -> dict[str, torch.Tensor]:
    """The image of each prompt's group."""
    wanted = {prompt.key: prompt.group for prompt in prompts}
    return {wanted[key]: pixels for key, pixels in shard_images(data / "train") if key in wanted}


def summarise(
    rows: list[dict[str, Any]], summaries: Any, paper_steps: int, steps: int, seconds: float
) -> dict[str, Any]:
    """The numbers of the demonstration in one place."""
    base, unfiltered, dedup, filtered, once, paper = rows
    run = summaries[filtered["name"]]
    return {
        "copy_rate_base": base["copy_rate"],
        "copy_rate_unfiltered": unfiltered["copy_rate"],
        "copy_rate_dedup": dedup["copy_rate"],
        "copy_rate_filtered": filtered["copy_rate"],
        "copy_rate_once": once["copy_rate"],
        "copy_rate_paper": paper["copy_rate"],
        "copy_rate_ordinary_unfiltered": unfiltered["copy_rate_ordinary"],
        "copy_rate_ordinary_dedup": dedup["copy_rate_ordinary"],
        "copy_rate_ordinary_filtered": filtered["copy_rate_ordinary"],
        "copy_rate_ordinary_once": once["copy_rate_ordinary"],
        "heldout_loss_unfiltered": unfiltered["heldout_loss"],
        "heldout_loss_dedup": dedup["heldout_loss"],
        "heldout_loss_filtered": filtered["heldout_loss"],
        "heldout_loss_once": once["heldout_loss"],
        "heldout_loss_paper": paper["heldout_loss"],
        "planted_groups_dropped_fraction": filtered["planted_dropped"],
        "clean_groups_dropped_fraction": filtered["clean_dropped"],
        "once_planted_groups_dropped_fraction": once["planted_dropped"],
        "once_clean_groups_dropped_fraction": once["clean_dropped"],
        "paper_planted_groups_dropped_fraction": paper.get("planted_dropped"),
        "paper_clean_groups_dropped_fraction": paper.get("clean_dropped"),
        "step_seconds_unfiltered": unfiltered["step_seconds"],
        "step_seconds_dedup": dedup["step_seconds"],
        "step_seconds_filtered": filtered["step_seconds"],
        "step_seconds_once": once["step_seconds"],
        "steps": steps,
        "paper_steps": paper_steps,
        "read": run["read"],
        "trained": run["trained"],
        "dropped": run["dropped"],
        "failed": run["failed"],
        "held_out": run["held_out"],
        "seconds": round(seconds, 1),
        "torch_threads": torch.get_num_threads(),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """The comparison as a table."""
    # Nine columns in the 80 of a plain terminal.
    heads = ["", "steps", "copy\nrate", "95 %", "ordi-\nnary", "held-\nout\nloss", "planted\ndropped", "clean\ndropped"]
    table = Table(title="Planted pairs that come back", box=SIMPLE_HEAD, padding=0)
    for head in [*heads, "s per\nstep"]:
        table.add_column(head, no_wrap=True)
    for row in rows:

        def number(name: str, form: str, row: dict[str, Any] = row) -> str:
            return format(row[name], form) if row.get(name) is not None else ""

        interval = f"{row['low']:.2f}-{row['high']:.2f}"
        table.add_row(row["name"], number("steps", "d"), number("copy_rate", ".2f"), interval,
                      number("copy_rate_ordinary", ".2f"), number("heldout_loss", ".4f"),
                      number("planted_dropped", ".0%"), number("clean_dropped", ".1%"),
                      number("step_seconds", ".2f"))  # fmt: skip
    Console(emoji=False).print(table)
