"""The page of scripts/bench detect, written from its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import stamped
from benchmarks.detection.levels_page import other_models
from benchmarks.detection.minimisation_page import reduced_by, share_kept, verdict_on_ways, ways_to_minimise

__all__ = ["kept", "write_page"]

HEAD = """# Detection and minimisation, measured

Written by `scripts/bench detect` from [the numbers](benchmarks/detect.json). The model is the tiny Stable Diffusion
pipeline of `./scripts/demo`, fine-tuned without a filter on OpenMoji with {pairs} pairs planted {repeats} times each.
DDIM, 50 steps, guidance scale {guidance:g}, float32, one CPU thread, on a machine that others used too: seconds are
rough, and rows measured at other moments compare badly. With {pairs} planted pairs all intervals (95 %, bootstrap over
base emoji or prompts) are wide, and where all pairs score alike the bootstrap cannot see how wide.
"""


def write_page(path: Path, found: dict[str, Any]) -> None:
    """Everything in ``found`` as one page."""
    pairs = found["copies"]["pairs"]
    repeats = sorted({pair["repeats"] for pair in pairs.values()})
    head = HEAD.format(
        pairs=len(pairs), repeats=" or ".join(f"{r:,}" for r in repeats), guidance=found["asked"]["guidance_scale"]
    )
    path.write_text(
        stamped(
            "\n".join(
                [
                    head,
                    *_copies(found),
                    *_detection(found),
                    *other_models(path.parent / "benchmarks"),
                    *_minimisation(found),
                    *ways_to_minimise(path.parent / "benchmarks", kept),
                    *_short(found, path.parent / "benchmarks"),
                ]
            )
        ),
        encoding="utf-8",
    )


def kept(before: Sequence[float], after: Sequence[float], resamples: int = 4000) -> tuple[float, float, float]:
    """sum(after) / sum(before) with the interval of a bootstrap over prompts; NaN where nothing was there before."""
    rows = np.asarray([before, after], dtype=np.float64)
    drawn = rows[:, np.random.default_rng(0).integers(0, rows.shape[1], (resamples, rows.shape[1]))].sum(2)
    ratios = drawn[1][drawn[0] > 0] / drawn[0][drawn[0] > 0]
    if not len(ratios) or rows[0].sum() == 0:
        return (float("nan"),) * 3
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(rows[1].sum() / rows[0].sum()), float(low), float(high)


def _short(found: dict[str, Any], numbers: Path) -> list[str]:
    """Where the numbers are below what was aimed at."""
    before = found["as it was"]
    minimised = [row for row in found.values() if isinstance(row, dict) and row.get("iterations")]
    both = [
        row
        for row in minimised
        if kept(before["copies"], row["copies"])[0] <= 0.2 and kept(before["alignment"], row["alignment"])[0] >= 0.8
    ]
    held = {(r["steps"], r["images_per_prompt"]): r for r in found["magnitude, held_out"]}
    first, longest = held[1, 1], held[max(held)]
    return [
        "## Where it falls short",
        "",
        f"- The first step ranks planted prompts well (AUC {first['auc']['value']:.2f}), but at 1 % false positives it "
        f"finds {100 * first['tpr']['value']:.0f} % of them: a prompt that is not flagged may still copy. Look at "
        "images too (`verify`, `probe`).",
        f"- The mean over all {longest['steps']} steps has an AUC of {longest['auc']['value']:.2f} here, "
        "for the reason above; stop early, or take `magnitude_fall`.",
        "- Pairs repeated 50 to 200 times are hardly told from ordinary ones; they are hardly copied either.",
        f"- Of the {len(minimised)} settings of the paper's minimisation on the model above, {len(both)} cut copies by "
        "at least 80 % while keeping at least 80 % of the alignment. They were chosen and measured on the same "
        "prompts, the lower target after the others had been seen. Meeting the target does not by itself stop a copy: "
        "check the images.",
        *verdict_on_ways(numbers, kept),
        "- Tiny models, one seed each, eight pairs or fewer at a number of repeats, one image per prompt in the second "
        "part; `magnitude_fall` was not tried on a large model.",
        "",
    ]


def _copies(found: dict[str, Any]) -> list[str]:
    rate = found["copies"]["rate"]
    each = [pair["rate"] for pair in found["copies"]["pairs"].values()]
    return [
        "## Do the planted pairs copy?",
        "",
        f"{rate['copies']} of {rate['generations']} generations from their captions are copies "
        f"({rate['rate']:.2f}, {rate['low']:.2f} to {rate['high']:.2f}); {sum(r > 0 for r in each)} of {len(each)} "
        "pairs come back at least once.",
        "",
    ]


def _detection(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Detection",
        "",
        "| detector | ordinary prompts | steps | n | AUC | TPR at 1 % FPR | seconds per prompt |",
        "|---|---|---|---|---|---|---|",
    ]
    for detector in ("magnitude", "magnitude_cosine"):
        for split, named in (("held_out", "held-out captions"), ("train", "other training captions")):
            for r in found.get(f"{detector}, {split}", []):
                auc, tpr = r["auc"], r["tpr"]
                lines.append(
                    f"| `{detector}` | {r['ordinary']} {named} | {r['steps']} | {r['images_per_prompt']} "
                    f"| {auc['value']:.3f} ({auc['low']:.3f} to {auc['high']:.3f}) "
                    f"| {tpr['value']:.2f} ({tpr['low']:.2f} to {tpr['high']:.2f}) | {r['seconds_per_prompt']:.3f} |"
                )
    plain = found["seconds_per_generation"]
    return [*lines, "", f"n is images per prompt. A plain generation of 50 steps takes {plain:.3f} s per image.", ""]


def _minimisation(found: dict[str, Any]) -> list[str]:
    part = {name: row for name, row in found.items() if isinstance(row, dict) and "alignment" in row}
    part = {"as it was": part.pop("as it was"), "empty prompt": part.pop("empty prompt"), **part}
    before, encoder = part["as it was"], found["encoder"]
    lines = [
        "## Minimisation",
        "",
        "The planted prompts, 8 images each, before and after from the same noise. *Alignment* is the share of images "
        "whose own caption fits best of all planted captions, by an image-text encoder trained on "
        f"{encoder['pairs']:,} other training pairs. The encoder finds the caption of "
        f"{100 * encoder['held_out_8_way']:.0f} % of held-out images among 8, and of "
        f"{100 * float(np.mean(encoder['training_images_of_planted'])):.0f} % of the planted training images "
        f"themselves; chance is {100 / len(before['copies']):.0f} %. The empty prompt is the control.",
        "",
        "| images | quantile | updates at most | lr | target met | copy rate | reduced by | alignment | kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in part.items():
        left, share = kept(before["copies"], row["copies"]), kept(before["alignment"], row["alignment"])
        settings = (
            f"{row['quantile']:g} | {row['iterations']} | {row['lr']:g} | {100 * float(np.mean(row['met'])):.0f} %"
            if row.get("iterations")
            else " | | |"
        )
        lines.append(
            f"| {name} | {settings} | {np.mean(row['copies']):.2f} | {'' if row is before else reduced_by(left)} "
            f"| {np.mean(row['alignment']):.2f} | "
            f"{'' if row is before else share_kept(share)} |"
        )
    largest = max(row.get("largest_difference_1_or_4_images", 0.0) for row in part.values())
    return [
        *lines,
        "",
        "*Quantile*: of held-out captions' first-step magnitudes, the target. The first image's embedding differs "
        f"by at most {largest:.1e} between one image and four minimised together.",
        "",
    ]
