"""The page and the plot of scripts/bench false-drops, written from its JSON."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from benchmarks.common import over_seeds, stamped

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["write_page"]

KNOWN = """\
The base was trained on these pairs, and those that it knows best have a low loss before the first step, which the
held-out pairs have not. In two unfiltered runs with the first two seeds, whose every measurement was kept and judged
again (in the batch, 1 %), loss + reference ratio condemned 38 and 8 of 510 pairs, the loss alone 26 and 25; the
reference ratio alone 1 and 0, and the reference residual, which decides by default, 0 and 2."""
HEAD = """# False drops, measured

Written by `scripts/bench false-drops` from [the numbers](benchmarks/false_drops.json). `false_drop_rate` is the
share of clean pairs that may *ever* be condemned, over their whole life; [here](how-the-filter-decides.md) is how the
filter keeps it.

## Synthetic streams

The real filter (calibrator, history, panel, schedule, decisions, the loader's delay, re-tests and pardons), fed with
drawn scores in place of a network's: {clean} clean pairs with an effect each that stays, {planted} planted ones whose
effect grows to two standard deviations of a visit by 80 exposures, {visits} visits a pair, windows of 32 rows, {held}
held-out groups, set rate 5 %, correlation of two visits of a pair .1, one caption in ten dropped, unless a row says
otherwise. "easier": training pairs drift away from held-out ones by .15 (or the gap said) standard deviations of a
visit. Intervals are 95 %, by bootstrap over seeds. "Found": planted pairs condemned within the run, and the median of
their exposures then.

What only the real runs below have: the signal that decides by default with its regression on the reference, and who is
spared for a loss above the held-out pairs' (streams decide by `reference_ratio`); held-out pairs that meet the same 16
draws again and again (here each is new); a larger share of held-out pairs in the first windows.

![False drops by setting](benchmarks/false_drops.png)

| stream | seeds | set rate | condemned, % | at 1 %, % | at 10 %, % | found | exposures | measured visits | sweeps |
|---|---|---|---|---|---|---|---|---|---|
"""
READING = """
"At 1 %" and "at 10 %" are what those rates would have condemned in the same stream: exact in the batch, where
decisions do not change what is measured; at the loader see the rows that were run so. With {held} held-out groups a
p-value is never below 1/{more}, and the realised share of one run varies with its held-out set: that is most of the
intervals' width.
"""


def write_page(path: Path, found: dict[str, Any]) -> None:
    """Everything in ``found`` as one page, and the plot beside the JSON."""
    synthetic, lines = found["synthetic"], []
    if synthetic:
        first = next(iter(synthetic.values()))["setting"]
        lines.append(HEAD.format(clean=first["clean"], planted=first["planted"], visits=first["visits"],
                                 held=first["held_out"]))  # fmt: skip
        lines += [_row(name, row) for name, row in synthetic.items()]
        lines.append(READING.format(held=first["held_out"], more=first["held_out"] + 1))
        lines += _verdict(synthetic)
        plot(path.parent / "benchmarks" / "false_drops.png", found)
    lines += [*_oftener(found.get("oftener", {})), *_earlier(found), *_real(found)]
    text = stamped("\n".join(line.rstrip("\n") for line in lines) + "\n")
    path.write_text("\n".join(_wrapped(line) for line in text.split("\n")), encoding="utf-8")


def _wrapped(line: str) -> str:
    """A paragraph within 120 columns; a table's row as it is."""
    return line if line.startswith(("|", "!")) else textwrap.fill(line, 120, break_long_words=False)


def _row(name: str, row: dict[str, Any]) -> str:
    exposures = row["planted_median_exposures"]
    cells = [name, row["seeds"], f"{100 * row['setting']['rate']:g} %", _percent(row["condemned"])]
    cells += [_percent(row["passed"][rate]) for rate in ("0.01", "0.1")]
    cells += [f"{row['planted_condemned']} of {row['planted']}", exposures if exposures is not None else "",
              f"{row['measured']:.0f}", row["sweeps"]]  # fmt: skip
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _percent(value: list[float]) -> str:
    mean, low, high = (100 * v for v in value)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})" if high > low else f"{mean:.1f}"


def _verdict(synthetic: dict[str, Any]) -> list[str]:
    enough = {name: row for name, row in synthetic.items() if row["seeds"] >= 3}
    above = [
        f"{name} at {100 * rate:g} %"
        for name, row in enough.items()
        for rate in (row["setting"]["rate"], *((0.01, 0.1) if row["setting"]["budget"] is None else ()))
        if (row["passed"][str(rate)] if rate != row["setting"]["rate"] else row["condemned"])[1] > rate
    ]
    few = [name for name in synthetic if name not in enough]
    said = (
        f"In none of the {len(enough)} settings with three seeds or more does an interval lie above the rate, nor in "
        "the batch at 1 and 10 %."
    )
    if above:
        said = "**The interval lies above the set rate** in: " + "; ".join(above) + "."
    return ["", said + (f" {len(few)} settings have fewer seeds so far, which says little." if few else ""), ""]


def _oftener(rows: dict[str, Any]) -> list[str]:
    """Pairs that come round more often: the upper end of each interval beside the set rate."""
    if not rows:
        return []
    lines = [
        "## Where pairs come round more often", "",
        "Nothing planted, 500 clean pairs, set rate 1 %. A visit teaches each pair what it teaches a planted one, some "
        "more and some less (`unlike`: spread of the logarithm). Pairs come round 10, 20 and 30 times; with `sooner` "
        "twice and three times as often after the first third of the run, when a sieve or `data.repeats` has taken out "
        "what stood between them. Those that would be learned like a planted pair in 60 exposures or more may come "
        "back: they are counted apart.", "",
        "| stream | seeds | condemned, % | of those that may come back | measured visits | sweeps |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, row in rows.items():
        back, caught = row["returning"]
        lines.append(
            f"| {name} | {row['seeds']} | {_fine(row['condemned'])} | {caught} of {back} | {row['measured']:.0f} | "
            f"{row['sweeps']} |"
        )
    above = [name for name, row in rows.items() if row["condemned"][2] > row["setting"]["rate"]]
    said = "The upper end of no interval lies above the set rate." if not above else (
        "**The upper end of the interval lies above the set rate** in: " + "; ".join(above) + ".")  # fmt: skip
    return [*lines, "", said, ""]


def _fine(value: list[float]) -> str:
    mean, low, high = (100 * v for v in value)
    return f"{mean:.2f} ({low:.2f} to {high:.2f})" if high > low else f"{mean:.2f}"


def _earlier(found: dict[str, Any]) -> list[str]:
    earlier = found.get("earlier", {})
    if not earlier:
        return []
    lines = [
        "## Before and after", "",
        "The rule before this page ranked among held-out groups alone, with a bar drawn anew at each look from paths "
        f"with a visit in every sweep. The same streams ({earlier['seeds']} seeds before, "
        f"{max((row['seeds'] for row in found['synthetic'].values()), default=0)} now), set rate 5 %:", "",
        "| stream | condemned before, % | condemned now, % | found before | found now | exposures before | now |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, (mean, low, high, caught, planted, exposures) in earlier["synthetic"].items():
        now = found["synthetic"].get(name)
        if now is not None:
            lines.append(
                f"| {name} | {mean:.1f} ({low:.1f} to {high:.1f}) | {_percent(now['condemned'])} | "
                f"{caught} of {planted} | "
                f"{now['planted_condemned']} of {now['planted']} | {exposures} | {now['planted_median_exposures']} |"
            )
    return [*lines, ""]


def _real(found: dict[str, Any]) -> list[str]:
    rows = {mode: cells for mode, cells in found["real"].items() if cells}
    before = found.get("earlier", {}).get("real", {})
    if not rows and not before:
        return []
    some = next(iter(rows.values() or before.values()))[0]
    lines = [
        "## Real runs with nothing planted", "",
        f"The tiny base fine-tuned on {some['groups']} OpenMoji pairs for {some['steps']} steps of 16 "
        f"({some['visits_mean']:.0f} visits a pair), filter on, configs/train/openmoji.yaml and openmoji_sieve.yaml. "
        "The base was trained on these pairs and not on the held-out ones, and more visits at this learning rate make "
        "them easier still: a hard case. Intervals: 95 %, over seeds.", "",
        "| mode | rule | seeds | at 1 %, % | at 5 %, % | median above held-out, in T | measured visits | sweeps |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for mode in ("batch", "sieve"):
        for label, cells in (("before", before.get(mode, [])), ("now", rows.get(mode, []))):
            if cells:
                lines.append(_real_row(mode, label, cells))
    return [*lines, "", *_real_verdict(rows)]


def _real_row(mode: str, label: str, cells: list[dict[str, Any]]) -> str:
    rates = [[cell["passed"][rate] / cell["groups"] for cell in cells] for rate in ("0.01", "0.05")]
    shown = [_over_seeds(values) for values in rates]
    shift = np.mean([cell["shift"] for cell in cells])
    measured, sweeps = np.mean([c["measured_mean"] for c in cells]), cells[0]["sweeps"]
    return f"| {mode} | {label} | {len(cells)} | {shown[0]} | {shown[1]} | {shift:.2f} | {measured:.1f} | {sweeps} |"


def _over_seeds(values: list[float]) -> str:
    if len(values) < 2:
        return f"{100 * values[0]:.1f}"
    mean, low, high = (100 * value for value in over_seeds(values))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def _real_verdict(rows: dict[str, Any]) -> list[str]:
    said = [f"{mode}: {len(cells)} seeds" for mode, cells in rows.items() if len(cells) < 5]
    few = [f"Fewer than five seeds: {', '.join(said)}.", ""] if said else []
    above = [
        f"{mode} at {100 * float(rate):g} %"
        for mode, cells in rows.items()
        for rate in ("0.01", "0.05")
        if len(cells) > 1 and over_seeds([c["passed"][rate] / c["groups"] for c in cells])[1] > float(rate)
    ]
    held = "**The interval lies above the set rate** in: " + "; ".join(above) + "." if above else (
        "No interval lies above the set rate." if rows else "")  # fmt: skip
    return [*few, *([held, "", *KNOWN.split("\n"), ""] if rows else [])]


def plot(path: Path, found: dict[str, Any]) -> None:
    """Realised rates with intervals, by setting, beside the set rate."""
    synthetic = found["synthetic"]
    figure, axes = plt.subplots(figsize=(8.5, 0.28 * len(synthetic) + 1.2), layout="constrained")
    for place, (_name, row) in enumerate(synthetic.items()):
        mean, low, high = (100 * v for v in row["condemned"])
        rate = 100 * row["setting"]["rate"]
        axes.plot([low, high], [place, place], color="tab:blue", lw=2)
        axes.plot(mean, place, "o", color="tab:blue", ms=5)
        axes.plot(rate, place, "|", color="tab:red", ms=14, mew=2)
    axes.set_yticks(range(len(synthetic)), list(synthetic), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("clean pairs ever condemned, % (bars: 95 %); red: the set rate")
    axes.grid(axis="x", alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
