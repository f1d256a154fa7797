"""What scripts/bench levels measured, as sections of the page on detection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["other_models"]

INTRO = """## Other models: by number of repeats, and where on the trajectory

Written by `scripts/bench levels`. A schedule of {steps} steps, guidance scale {guidance:g}, {held} held-out captions
as ordinary prompts; intervals as above. *Fall* is `--detector magnitude_fall`: how high the magnitude is in the first
fifth of the steps, plus how far it falls from there to the rest, each as a z-score beside ordinary prompts. It was
found on the model above and not changed for these.
"""
NOTHING_COPIED = (
    "No generation from a planted pair's caption is a copy: detection of pairs that copy cannot be measured on this "
    "model."
)
PER_STEP = """### {title}

Per step, the magnitude alone separates planted from held-out captions with these AUCs:

| {heads} |
|{rules}|
{aucs}
"""
REASON = """
It starts high, falls below that of ordinary prompts, and ends high. The reason is the unconditional branch. Below,
each branch's prediction of the finished image along the planted prompts' trajectories is compared with the planted
image (`{name}`): share of copies, and in brackets the distance.

| step | t | conditional | unconditional | unconditional, before fine-tuning |
|---|---|---|---|---|
{rows}

Fine-tuning on few images, with some captions left out, teaches the unconditional branch the planted images as well.
Once the latents show one of them, both branches predict it, and their difference vanishes. A large model that met a
pair a few hundred times among millions of others has presumably no such unconditional branch, and the paper's mean
works there; that was not measured here. So: take the first step, and `magnitude_fall` beside it where a model was tuned
to a small set; `--per-step` shows which case it is. Where a pair is learned but not yet copied (200 repeats), the
magnitude does not fall, and the mean ranks better than the fall.
"""


def other_models(folder: Path) -> list[str]:
    """Sections for every detect-NAME.json in ``folder``; nothing where there is none."""
    found = {file.stem.removeprefix("detect-"): json.loads(file.read_text()) for file in folder.glob("detect-*.json")}
    if not found:
        return []
    some = next(iter(found.values()))
    asked = some["asked"]["settings"]
    held = some["detection"]["all"][0]["ordinary"]
    lines = [INTRO.format(steps=asked["schedule_steps"], guidance=asked["guidance_scale"], held=held)]
    for name, part in sorted(found.items()):
        lines += _model(name, part)
    lines.append(_why(found))
    return lines


def _model(name: str, part: dict[str, Any]) -> list[str]:
    plain, early = part["seconds_per_generation"], part["early_exit"]
    flagged = early["steps_of_flagged"]
    planted = ", ".join(_plant(plant) for plant in part["data"]["plant"] if not plant.endswith("x1"))
    return [
        f"### `{name}`: {planted}",
        "",
        f"{_trained(part)} A plain generation takes {plain:.3f} s.",
        "",
        "| planted pairs | pairs | copies | detector | steps | n | AUC | TPR at 1 % FPR | seconds per prompt |",
        "|---|---|---|---|---|---|---|---|---|",
        *[_row(group, row, part) for group, rows in part["detection"].items() for row in rows],
        "",
        *([] if _copies(part) else [NOTHING_COPIED, ""]),
        f"With `--early-exit` over all {len(part['per_step_auc'])} steps {len(flagged)} of {early['prompts']} planted "
        f"prompts are flagged at a false-positive rate of 1 % for the whole path, after {_listed(flagged)} steps.",
        "",
    ]


def _copies(part: dict[str, Any]) -> bool:
    """Whether a planted pair comes back at least once."""
    return any(pair["rate"] > 0 for pair in part["copies"]["pairs"].values())


def _trained(part: dict[str, Any]) -> str:
    """How long, and how often pairs were seen; the run's config may not have been named."""
    trained = part["trained"]
    if trained["steps"] is None or trained["batch_size"] is None:
        return "How long it was trained is not known (`--trained`)."
    stopped = f", stopped there of {trained['of_steps']:,}" if trained["of_steps"] != trained["steps"] else ""
    epochs = trained["steps"] * trained["batch_size"] / part["data"]["train_rows"]
    return (
        f"Seed {trained['seed']}, {trained['steps']:,} steps of {trained['batch_size']}{stopped}: each planted pair "
        f"was seen about {epochs:.2g} times its number of repeats."
    )


def _plant(plant: str) -> str:
    count, repeats = plant.split("x")
    return f"{count} pairs {int(repeats):,} times"


def _row(group: str, row: dict[str, Any], part: dict[str, Any]) -> str:
    auc, tpr, named = row["auc"], row["tpr"], f"{int(group):,} repeats" if group.isdigit() else group
    pairs = part["copies"]["pairs"].values()
    chosen = [
        pair["rate"] for pair in pairs
        if group == "all" or (pair["rate"] > 0 if group == "that copy" else pair["repeats"] == int(group))
    ]  # fmt: skip
    return (
        f"| {named} | {row['memorized']} | {sum(chosen) / len(chosen):.2f} "
        f"| {'fall' if row['detector'] == 'magnitude_fall' else 'mean'} | {row['steps']} | {row['images_per_prompt']} "
        f"| {auc['value']:.2f} ({auc['low']:.2f} to {auc['high']:.2f}) "
        f"| {tpr['value']:.2f} ({tpr['low']:.2f} to {tpr['high']:.2f}) | {row['seconds_per_prompt']:.3f} |"
    )


def _why(found: dict[str, Any]) -> str:
    """The AUCs step by step; what explains them is told of a model that copies alone."""
    steps = len(next(iter(found.values()))["per_step_auc"])
    aucs = "\n".join(
        f"| `{name}` | {' | '.join(f'{value:.2f}' for value in part['per_step_auc'])} |"
        for name, part in sorted(found.items())
    )
    heads = " | ".join(["model", *(f"step {k}" for k in range(steps))])
    copying = [name for name, part in found.items() if _copies(part)]
    title = "Why the mean over all steps says little here" if copying else "Step by step"
    per_step = PER_STEP.format(title=title, heads=heads, rules="---|" * steps + "---", aucs=aucs)
    if not copying:
        return per_step
    name = max(copying, key=lambda n: found[n]["collapse"][-1]["cond"]["copies"])

    def cell(value: dict[str, float]) -> str:
        return f"{value['copies']:.2f} ({value['distance']:.3f})"

    rows = "\n".join(
        f"| {row['step']} | {row['timestep']} | {cell(row['cond'])} | {cell(row['uncond'])} "
        f"| {cell(row['uncond_before'])} |"
        for row in found[name]["collapse"]
    )
    return per_step + REASON.format(name=name, rows=rows)


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(str(step) for step in sorted(steps)) or "no"
