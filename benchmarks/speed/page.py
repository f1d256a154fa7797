"""The page and the picture of scripts/bench speed, written from its JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common import stamped
from benchmarks.speed.timed_run import DEMONSTRATION, DEMONSTRATION_LIMITS, LIMITS, PASS_LIMITS, VARIANTS
from memsieve.filtering.schedule import BUDGET, FREE_BUDGET
from memsieve.train.held_out import DRAWS

__all__ = ["ratio", "write_page"]

HEAD = """# What the filter costs

Written by `scripts/bench speed` from [the numbers](benchmarks/speed.json). Runs of the tiny Stable Diffusion
pipeline in `assets/tiny-sd` on OpenMoji at 32x32, batches of 16, accumulation 1, float32, one process, on {cpu},
{cores} cores, CPU threads: {threads}, torch {torch}. All runs live in one process and take turns, {windows} windows
each, {rounds} rounds; a ratio is the median over rounds of a run's seconds to those of the run without a filter in the
same round, with a 95 % interval (bootstrap over rounds). Reading, decoding and writing the records are included;
validation and checkpoints are not. On a GPU the shares differ: a forward of a few rows costs relatively more there,
decoding and bookkeeping overlap less, and the reference copy is in half precision. Nothing was measured on one.
*Default signal*: `{signals}`. At the loader the share of extra compute (`score_budget`) is the default where
none is named, {budget} with a frozen copy and {free} with the reference looked up.
"""


def ratio(
    blocks: dict[str, list[dict[str, float]]], name: str, per: str, clock: str = "seconds"
) -> tuple[float, float, float]:
    """Median over rounds of seconds per ``per`` against the run without a filter, with its 95 % interval."""
    ours, plain = blocks[name], blocks["no filter"]
    each = np.array(
        [(a[clock] / a[per]) / (b[clock] / b[per]) for a, b in zip(ours, plain, strict=True)], dtype=np.float64
    )
    drawn = np.median(each[np.random.default_rng(0).integers(0, len(each), (4000, len(each)))], axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.median(each)), float(low), float(high)


def write_page(path: Path, found: dict[str, Any]) -> None:
    """Everything in ``found`` as one page, with its picture beside the numbers."""
    parts = {int(name.removeprefix("planted_")): part for name, part in found.items() if name.startswith("planted_")}
    timed = dict(sorted(parts.items()))
    first = timed[min(timed)]
    asked = first["asked"]
    head = HEAD.format(**first["machine"], windows=asked["windows"], rounds=_rounds(timed),
        signals=" + ".join(asked["signals"]), budget=BUDGET, free=FREE_BUDGET)  # fmt: skip
    picture = path.parent / "benchmarks" / "speed.png"
    _draw(picture, timed)
    lines = [head, *_table(timed, "updates"), *_table(timed, "read"), *_limits(timed), *_seconds(timed)]
    lines += ["![ratios](benchmarks/speed.png)", "", *_audit(found, timed), *_memory(found), *_history(found)]
    path.write_text(stamped("\n".join(lines)), encoding="utf-8")


def _rounds(timed: dict[int, Any]) -> str:
    counts = sorted({len(part["blocks"]["no filter"]) for part in timed.values()})
    return " or ".join(map(str, counts))


def _shown(value: tuple[float, float, float]) -> str:
    return f"{value[0]:.3f} ({value[1]:.3f} to {value[2]:.3f})"


def _table(timed: dict[int, Any], per: str) -> list[str]:
    heads = {
        "updates": "## At equal updates\n\nSeconds per update against the run without a filter, by the share of "
        "planted rows. The planted pairs are condemned before the first window (the paper's rule tests each "
        "visit for itself): what is timed is how fast a run is that has decided. The sieve spends its whole budget.",
        "read": "## At equal samples read\n\nSeconds per sample read, and so per pass over the data. The sieve reads a "
        "condemned sample and skips it; the others train with a weight of 0, in the same time.",
    }
    lines = [
        heads[per],
        "",
        "| run | " + " | ".join(f"{share} %" for share in timed) + " |",
        "|---" * (len(timed) + 1) + "|",
    ]
    for name in _measured(timed):
        if name != "no filter":
            lines.append(
                f"| {name} | " + " | ".join(_shown(ratio(p["blocks"], name, per)) for p in timed.values()) + " |"
            )
    return [*lines, ""]


def _measured(timed: dict[int, Any]) -> list[str]:
    """The runs that every part has timed, in their order."""
    return [name for name in VARIANTS if all(name in part["blocks"] for part in timed.values())]


def _limits(timed: dict[int, Any]) -> list[str]:
    lines = [
        "## Against what was aimed at",
        "",
        "| run | measured as | aim | by the wall | processor time | met |",
        "|---|---|---|---|---|---|",
    ]
    asked = [("updates", "per update, nothing planted", 0, name, aim) for name, aim in LIMITS.items()]
    asked += [("read", "per pass, 10 % planted", 10, name, aim) for name, aim in PASS_LIMITS.items()]
    shown = f"per update, the demonstration's data, {DEMONSTRATION} % planted"
    asked += [("updates", shown, DEMONSTRATION, name, aim) for name, aim in DEMONSTRATION_LIMITS.items()]
    size, every = next(iter(timed.values())).get("asked", {}).get("held_out_turn", [5, 1])
    apart = f", a turn every {every} windows" if every > 1 else ""
    windows = round(DRAWS * 128 / size) * every
    for per, words, share, name, aim in asked:
        if share in timed:
            value = ratio(timed[share]["blocks"], name, per)
            cpu = ratio(timed[share]["blocks"], name, per, "cpu_seconds")
            over = max(value[0], cpu[0]) - aim
            met = "yes" if over <= 0.0 else f"no, by {over:.3f}"
            lines.append(f"| {name} | {words} | {aim:.2f} | {_shown(value)} | {_shown(cpu)} | {met} |")
    return [
        *lines,
        "",
        "*Met*: both medians are within the aim. Processor time counts the work alone, whoever else used the machine. "
        "*First sweeps*: until each held-out pair has met each of its 16 draws, the reference is "
        "asked about every one; after that its answers are known. With 128 held-out pairs, "
        f"{size} in a turn{apart}, that takes about {windows} windows. The other rows are measured after that.",
        "",
    ]


def _seconds(timed: dict[int, Any]) -> list[str]:
    part = timed[min(timed)]
    plain = np.median([b["seconds"] / b["updates"] for b in part["blocks"]["no filter"]])
    return [f"Without a filter an update took {plain:.3f} s (median over rounds).", ""]


def _audit(found: dict[str, Any], timed: dict[int, Any]) -> list[str]:
    if "audit" not in found or 0 not in timed:
        return []
    audit, part = found["audit"], timed[0]
    each = audit["seconds"] / audit["rows"] / audit["draws"]
    blocks = part["blocks"]
    plain = float(np.median([b["seconds"] / b["read"] for b in blocks["no filter"]]))
    ours = ratio(blocks, "sieve: looked up", "read")[0]
    lines = [
        "## Training and audit",
        "",
        f"An audit of the held-out split ({audit['rows']} pairs, {audit['draws']} draws) took "
        f"{audit['seconds']:.1f} s, {1000 * each:.1f} ms a pair and draw; it measures the magnitude too, which "
        "the reference does not need. One audit serves every run of that model and seed. With it the looked-up sieve "
        "takes, at nothing planted,",
        "",
        "| passes over the data | 1 | 10 | 50 | 200 |",
        "|---|---|---|---|---|",
    ]
    for draws in (4, 16):
        ratios = [ours + each * draws / (plain * passes) for passes in (1, 10, 50, 200)]
        lines.append(f"| {draws} draws | " + " | ".join(f"{value:.3f}" for value in ratios) + " |")
    return [*lines, "", "of the time without a filter. A pair has as many measured visits as it has draws.", ""]


def _memory(found: dict[str, Any]) -> list[str]:
    if "memory" not in found:
        return []
    runs = {name: part for name, part in found["memory"].items() if name != "machine"}
    plain = runs["no filter"]["peak_bytes"]
    lines = [
        "## Peak memory",
        "",
        "Largest resident size of a process of its own; a process that is started again differs by some MB.",
        "",
        "| run | MB | above no filter | of it, the reference copy |",
        "|---|---|---|---|",
    ]
    for name, part in runs.items():
        peak, copy = part["peak_bytes"] / 1e6, part["reference_copy_bytes"] / 1e6
        lines.append(f"| {name} | {peak:,.0f} | {peak - plain / 1e6:+,.0f} | {copy:,.0f} |")
    return [*lines, ""]


def _history(found: dict[str, Any]) -> list[str]:
    if "history" not in found:
        return []
    h = found["history"]
    resident, peak = (h[name] * h["groups"] / 1e9 for name in ("bytes_per_group", "peak_bytes_per_group"))
    filled = f"{h['seconds_to_fill']:.0f} s, {1e6 * h['seconds_to_fill'] / h['groups']:.1f} µs a visit"
    return [
        "## The filter's state",
        "",
        f"A history of {h['groups']:,} groups in one process takes {h['bytes_per_group']:.0f} bytes of resident memory "
        f"a group, {resident:.2f} GB ({peak:.2f} GB at the worst moment: while a checkpoint that was "
        "read is compared with what was written, two histories are there). Ranks share it out.",
        "",
        "| | |",
        "|---|---|",
        f"| fill it, a visit each | {filled} |",
        f"| find a group | {h['microseconds_to_find_a_group']:.1f} µs |",
        f"| what is compared once a sweep: all groups | {h['seconds_to_look_again']:.2f} s, the first time "
        f"{h['seconds_to_look']:.2f} s |",
        f"| what is compared after each window: 256 of them | {h['milliseconds_to_compare_256']:.1f} ms |",
        f"| the 12 most suspected | {h['seconds_to_find_the_top_12']:.2f} s |",
        f"| save in a checkpoint | {h['seconds_to_save']:.1f} s, {h['checkpoint_bytes_per_group']:.0f} bytes a group |",
        f"| load it | {h['seconds_to_load']:.1f} s |",
        "",
    ]


def _draw(path: Path, timed: dict[int, Any]) -> None:
    """Ratios per update with nothing planted beside the aims, and per pass over the share of planted rows."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5.0), width_ratios=[1.15, 1], layout="constrained")
    blocks = timed[min(timed)]["blocks"]
    names = [name for name in _measured(timed) if name != "no filter"]
    for place, name in enumerate(names):
        value, low, high = ratio(blocks, name, "updates")
        left.barh(place, value - 1.0, left=1.0, color="#9db8d6", height=0.6)
        left.plot([low, high], [place, place], color="black", lw=1.2)
        left.plot(ratio(blocks, name, "updates", "cpu_seconds")[0], place, "o", color="#1f4e79", ms=6)
        if name in LIMITS:
            left.plot([LIMITS[name]] * 2, [place - 0.42, place + 0.42], color="#c44e52", lw=2)
    told = [name.replace(", magnitude recorded", ",\nmagnitude recorded") for name in names]
    left.set_yticks(range(len(names)), told, fontsize=9)
    left.invert_yaxis()
    left.axvline(1.0, color="grey", lw=0.8)
    left.set_xlabel("time per update, no filter = 1\nbars: by the wall, 95 %; dots: processor time; red: aim")
    left.set_title("nothing planted", fontsize=10)
    shown = ("batch: default signal", "sieve: frozen copy", "sieve: frozen copy, budget 0.25", "sieve: looked up")
    for number, name in enumerate(shown):
        values = np.array([ratio(part["blocks"], name, "read", "cpu_seconds") for part in timed.values()])
        places = [share + 0.35 * (number - len(shown) / 2) for share in timed]  # or intervals would hide each other
        right.errorbar(
            places, values[:, 0], [values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]],
            marker="o", ms=4, capsize=3, label=name,
        )  # fmt: skip
    right.axhline(1.0, color="grey", lw=0.8)
    right.set_xlabel("planted rows, %")
    right.set_ylabel("processor time per pass, no filter = 1")
    right.set_ylim(top=1.75)
    right.legend(fontsize=9, frameon=False, loc="upper right")
    right.set_title("planted pairs condemned", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
