"""The page's introduction: what the data, the training and the measures were, with the numbers of the cells."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

import yaml

from benchmarks.common import CONFIGS
from benchmarks.quality.cell import Cell
from benchmarks.quality.figures import Results
from benchmarks.quality.methods import METHODS

__all__ = ["introduction"]

HEAD = """## Quality

Written by `scripts/bench quality` from the cells in `docs/benchmarks/quality/`: **{done} of {all} cells** of the
small matrix (3 seeds) are there. A cell is a method on a case and a seed; figures pool the seeds that are there, so
rows with fewer seeds have wider intervals.

**Data.** OpenMoji, 32x32; one stream of {stream:,} pairs holds all levels and cases at once and is read {passes}
times, so that exposures are repeats times {passes}: {levels}; {hard} pairs each, at {hard_exposures} exposures, as
paraphrases (one image, many captions), near-duplicates (cropped, mirrored, compressed anew, recoloured) and templates
(one caption, {hard_repeats} images with another ground and badge); {rare} pairs in a rare style and {clean:,}
ordinary pairs, at {passes} exposures. All methods get the same stream in the same order. What takes rows out before
training, the sieve and the oracle go round more often: **all take {updates} steps**, the oracle {rounds:.0f} passes
over its {oracle:,} pairs. A step whose whole batch was dropped updates nothing; the table of cost counts updates.

**Exposures** are those of a run without a filter. Where rows are taken out or skipped, what is left is read more
often{sieve_visits}.

**Training.** `assets/tiny-sd` (2.2 M parameters), batch {batch}, AdamW {lr:g}, cosine, {machine}. At the loader the
settings are those of `configs/train/openmoji_sieve.yaml`, whose `score_budget` of {budget:g} is above the default;
[what each costs](benchmarks-speed.md).

**Measured.** *Dropped*: at least half of the last quarter of a pair's visits trained nothing, or its group ended
condemned. *TPR*: pairs that rank above all but 1 % of the ordinary pairs by the method's own number (memsieve:
dropped ones first, then the largest evidence of the pair's groups, weighted by visits; rules on visits: mean margin;
the cap: visits; dedup: rows taken out). The last two need no look at a model: any repeated pair ranks above those
that stand in the stream once. *Copy*: the nearest training image is of the pair itself, and nearer than 95 % of
held-out images are to theirs; *own* is the first half of that. {images} generations a pair, {generations} a level
with three seeds, DPM-Solver++ {sampling} steps, guidance {guidance:g}. Intervals are 95 %, over pairs, and say
nothing of other trainings: for held-out loss each seed is shown too. The base model was trained on the ordinary pairs
too, not on the held-out ones.
"""


def introduction(results: Results, wanted: Sequence[Cell]) -> str:
    """As Markdown."""
    cell = next(iter(results.of("none") or results.cells.values()))
    spec, protocol, machine = cell["settings"]["spec"], cell["settings"]["protocol"], cell["machine"]
    passes = spec["passes"]
    levels = ", ".join(f"{pairs} pairs at {repeats * passes}" for repeats, pairs in spec["levels"])
    there = sum((c.method, c.case, c.seed) in results.cells for c in wanted)
    rows, oracle = cell["rows"]["stream"], cell["rows"]["oracle"]
    updates = protocol["steps"] or -(-rows * passes // protocol["batch_size"])
    text = HEAD.format(
        done=there, all=len(wanted), stream=rows, levels=levels, hard=spec["hard_pairs"],
        hard_repeats=spec["hard_repeats"], hard_exposures=spec["hard_repeats"] * passes, passes=passes,
        rare=spec["rare"], clean=spec["clean"], batch=protocol["batch_size"], updates=f"{updates:,}", oracle=oracle,
        rounds=updates * protocol["batch_size"] / oracle, lr=protocol["lr"],
        images=protocol["images"], generations=3 * max(p for _, p in spec["levels"]) * protocol["images"],
        sieve_visits=_read_more_often(results),
        budget=yaml.safe_load((CONFIGS / METHODS["ours_sieve"].config).read_text())["filter"]["score_budget"],
        sampling=protocol["sampling_steps"], guidance=protocol["guidance_scale"],
        machine=f"one CPU thread of a machine with {machine['cores']} cores ({machine['processor']}), which others "
        f"used too, torch {machine['torch']}",
    )  # fmt: skip
    return (
        "\n\n".join(fill(part, 120, break_long_words=False, break_on_hyphens=False) for part in text.split("\n\n"))
        + "\n"
    )


def _read_more_often(results: Results) -> str:
    """How much more, at the loader."""
    seen = results.visits("ours_sieve", "level 50")
    if not seen:
        return ""
    return f": at the loader a pair in the column 50 came round {seen:.0f} times (median), skipped or not"
