"""The page and the plot of scripts/bench signals, written from its JSON."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common import stamped
from memsieve.filtering.signals import required_passes

__all__ = ["write_page"]

DEFAULT, RATIO, SUM = "reference_residual, t < 750", "reference_ratio, t < 750", "loss + reference_ratio, t < 750"
PLOTTED = ("magnitude", "loss_gap", "loss", RATIO, SUM, DEFAULT, "drift, t < 750", "anchored_magnitude, t < 750")
TARGETS = {"same": 0.90, "shifted": 0.75}
AT = "50"
MOST = 2
"""Seeds on which another signal must be better, of three, to decide in the default's place."""
NAMES = {
    "same": "Same domain",
    "shifted": "Under a shift",
    "same_all_captions": "Same domain, no caption dropped",
    "shifted_all_captions": "Under a shift, no caption dropped",
}
HEAD = """# Signals, measured

Written by `scripts/bench signals` from [the numbers](benchmarks/signals.json). The tiny base model is fine-tuned
without a filter (configs/train/openmoji.yaml) for one pass over a set in which pairs are planted 10 to 800 times:
repeats are exposures; {seeds} fine-tunes, each with a split and planted pairs of its own. *Same domain*: OpenMoji,
which the base was trained on (in the first split; in another it has seen some of the held-out pairs, too). *Under a
shift*: Twemoji, the same kind of things drawn otherwise, which it never saw. Then planted pairs, ordinary training
pairs and held-out pairs are scored at {draws} draws each, t stratified. Each signal becomes a z-score per t-bin against
95 held-out pairs of its run, as in the filter (the residual's slope too); sums are of z-scores. *t < 750*: only visits
at these timesteps count, as by default (`filter.max_timestep`). AUC: planted against ordinary training pairs and the
other held-out pairs; the intervals (95 %) are a bootstrap over pairs. With {count} pairs a level they are wide.
"""
FOOT = """
Twemoji: Copyright Twitter, Inc and other contributors, CC BY 4.0, from the npm package @iconify-json/twemoji 1.2.5.
OpenMoji: CC BY-SA 4.0.
"""


def write_page(path: Path, found: dict[str, Any]) -> None:
    """Everything in ``found`` as one page, and the plot beside the JSON."""
    domains = [name for name in NAMES if name in found]
    if not domains:
        return
    some = found[domains[0]]
    counts = sorted({str(count) for count in some["pairs"].values()}, key=int)
    count = f"{counts[0]} to {counts[-1]}"
    head = HEAD.format(seeds=some.get("seeds", 1), draws=some["draws"], count=count)
    lines = [head, "", "![AUC by exposures](benchmarks/signals.png)", ""]
    for domain in domains:
        lines += _domain(domain, found[domain])
    aimed = {domain: found[domain] for domain in domains if domain in TARGETS}
    lines += [*_targets(aimed), *_instead(aimed)]
    path.write_text(stamped("\n".join([*lines, FOOT.strip(), ""])), encoding="utf-8")
    plot(path.parent / "benchmarks" / "signals.png", {domain: found[domain] for domain in domains})


def _domain(domain: str, table: dict[str, Any]) -> list[str]:
    levels = list(table["pairs"])
    lines = [f"## {NAMES[domain]}", "", f"Against {table['clean_training']} ordinary training pairs and "
             f"{table['clean_held_out']} held-out pairs. One visit / mean of {table['draws']}, by exposures:", "",
             "| signal | " + " | ".join(levels) + " |", "|---" * (len(levels) + 1) + "|"]  # fmt: skip
    best = {
        level: {kind: max(row[level][kind][0] for row in table["auc"].values()) for kind in ("single", "mean")}
        for level in levels
    }
    for label, row in table["auc"].items():
        cells = [
            " / ".join(_bold(row[level][kind][0], best[level][kind]) for kind in ("single", "mean")) for level in levels
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", f"One visit at {AT} exposures with its interval, and by t (0 to 250, to 500, to 750, to 1000):", "",
              "| signal | AUC | against ordinary training pairs alone | by t |", "|---|---|---|---|"]  # fmt: skip
    for label, row in table["auc"].items():
        value, low, high = row[AT]["single"]
        parts = " ".join(f"{part:.2f}" for part in table["by_t"][label][AT])
        alone = row[AT]["against_training_only"]
        lines.append(f"| {label} | {value:.2f} ({low:.2f} to {high:.2f}) | {alone:.2f} | {parts} |")
    return [*lines, ""]


def _bold(value: float, best: float) -> str:
    text = f"{value:.2f}"
    return f"**{text}**" if value >= best - 0.005 else text


def _targets(found: dict[str, Any]) -> list[str]:
    lines = ["## Against what was aimed at", ""]
    for domain, table in found.items():
        value, low, high = table["auc"][DEFAULT][AT]["single"]
        best, row = max(table["auc"].items(), key=lambda item: item[1][AT]["single"][0])
        said = "reached" if value >= TARGETS[domain] else "not reached"
        lines.append(
            f"- {NAMES[domain]}: the default, {DEFAULT}, has a single-visit AUC of {value:.2f} ({low:.2f} to "
            f"{high:.2f}) at {AT} exposures; {TARGETS[domain]:.2f} was aimed at: {said}. The best of all is {best}, "
            f"{row[AT]['single'][0]:.2f}."
        )
    lines.append(
        "- The loss alone cannot tell a hard image from a memorised one; the ratio to the base cancels how hard the "
        "image is. (Planted pairs are vivid ones, which the base presumably denoises worse; that was not measured.) "
        "All signals say little at t above 750, which is why the filter leaves those visits out. That limit was chosen "
        "on the first of these runs, with its AUCs in view. At 50 exposures the ratio reads " + _by_seed(found) + "."
    )
    lines.append(
        "- The ratio alone is as sharp a test of one visit, yet the residual decides by default: these AUCs are "
        "against ordinary pairs and say nothing of pairs in a rare style, nor of how far apart clean pairs' means over "
        "many visits lie. In whole runs in the batch the residual condemns frequent pairs after fewer exposures than "
        "the ratio does, and none in a rare style where the ratio condemns a fifth ([benchmarks](benchmarks.md), [how "
        "the filter decides](how-the-filter-decides.md))."
    )
    return [*(textwrap.fill(line, 120, subsequent_indent="  ", break_on_hyphens=False) for line in lines), ""]


def _instead(found: dict[str, Any]) -> list[str]:
    """What could decide in the default's place: better by one visit on most seeds in both domains, at no more
    passes."""
    seeds = min(len(table["by_seed"][DEFAULT]) for table in found.values())
    if len(found) < 2 or seeds <= MOST:
        return []
    heads = ["signal", *(f"better on, {NAMES[domain].lower()}" for domain in found), "passes", "instead"]
    lines = [
        "## In the default's place",
        "",
        f"Would decide instead: what has the better AUC by one visit at {AT} exposures on at least {MOST} of {seeds} "
        "seeds, in both domains, at no more passes.",
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
    ]
    default = required_passes(_names(DEFAULT))
    for label in found["same"]["auc"]:
        if label == DEFAULT:
            continue
        wins = [_wins(table["by_seed"], label) for table in found.values()]
        passes = required_passes(_names(label))
        instead = all(won >= MOST for won in wins) and len(passes) <= len(default)
        cells = [label, *(f"{won} of {seeds}" for won in wins), " + ".join(sorted(passes)) or "none"]
        lines.append("| " + " | ".join([*cells, "yes" if instead else "no"]) + " |")
    return [*lines, ""]


def _wins(by_seed: dict[str, Any], label: str) -> int:
    """On how many seeds ``label`` has the better AUC."""
    return sum(mine[0] > default[0] for mine, default in zip(by_seed[label], by_seed[DEFAULT], strict=True))


def _names(label: str) -> list[str]:
    """The signals that a label sums."""
    return label.split(",")[0].split(" + ")


def _by_seed(found: dict[str, Any]) -> str:
    """Of each run by itself, first to last."""
    parts = []
    for domain, table in found.items():
        each = ", ".join(f"{value:.2f} ({low:.2f} to {high:.2f})" for value, low, high in table["by_seed"][RATIO])
        parts.append(f"{each} ({NAMES[domain].lower()})")
    return " and ".join(parts) + " by run"


def _aim(axis: Any, aim: float) -> None:
    axis.axhline(aim, color="grey", lw=0.8, ls=":")
    axis.annotate("aimed at, one visit at 50", (1.0, aim), (-4, -3), xycoords=("axes fraction", "data"),
                  textcoords="offset points", ha="right", va="top", fontsize=7, color="grey")  # fmt: skip


def plot(path: Path, found: dict[str, Any]) -> None:
    """Single visits (full) and means (dashed) by exposures, a panel for each domain."""
    everywhere = [set(table["auc"]) for table in found.values()]
    shown = [label for label in PLOTTED if all(label in labels for labels in everywhere)]
    figure, axes = plt.subplots(1, len(found), figsize=(5.2 * len(found), 4.7), sharey=True, layout="constrained")
    for axis, (domain, table) in zip(np.atleast_1d(axes), found.items(), strict=True):
        levels = [int(level) for level in table["pairs"]]
        for number, label in enumerate(shown):
            row = table["auc"][label]
            colour = f"C{number}"
            axis.plot(levels, [row[str(v)]["single"][0] for v in levels], "o-", color=colour, ms=3, label=label)
            axis.plot(levels, [row[str(v)]["mean"][0] for v in levels], "--", color=colour, lw=1, alpha=0.7)
        if domain in TARGETS:
            _aim(axis, TARGETS[domain])
        axis.set_xscale("log")
        axis.set_xticks(levels, [str(level) for level in levels])
        axis.minorticks_off()
        axis.set_xlabel("exposures")
        axis.set_title(NAMES[domain], fontsize=10)
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].set_ylabel(f"AUC: one visit (full), mean of {table['draws']} (dashed)")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
