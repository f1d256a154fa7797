"""The page of scripts/bench audit, written from its JSON."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import stamped

__all__ = ["write_page"]

AIM = 0.9

HEAD = """# Audits, measured

Written by `scripts/bench audit` from [the numbers](benchmarks/audit.json). The model is the tiny Stable Diffusion
pipeline `assets/tiny-sd`, the data OpenMoji at 32 pixels; float32, CPU, one thread, 4 draws a sample and 16 samples a
forward unless said otherwise.
"""


def write_page(path: Path, found: dict[str, Any]) -> None:
    """Everything in ``found`` as one page."""
    parts = [HEAD, *_ranking(found), *_removal(found), *_throughput(found), *_shards(found), *_limits(found)]
    path.write_text(stamped("\n".join(parts)), encoding="utf-8")


def _repeats(found: dict[str, Any]) -> list[str]:
    return sorted((text.partition("x")[2] for text in found["planted"]["plant"]), key=int)


def _ranking(found: dict[str, Any]) -> list[str]:
    about, rows = found["planted"], found["ranking"]
    kinds = _repeats(found)
    pairs = next(iter(rows.values()))["planted_pairs"]
    lines = [
        "## Are planted pairs ranked first?",
        "",
        f"A fine-tune without a filter, {about['steps']:,} steps of 16 ({about['epochs']:.2f} epochs) on "
        f"{about['train_rows']:,} samples of {about['train_groups']:,} pairs, {pairs} of them planted "
        f"({', '.join(about['plant'])}: pairs x repeats; exposures are repeats times epochs). The base and the "
        "fine-tuned model were audited; rows with *ratio* compare the two at the same draws (`--reference`). AUC of "
        f"pairs planted alike against pairs that were not planted, and of all {pairs}; precision among the first k.",
        "",
        f"| score | {' | '.join(_kind(k, about['epochs']) for k in kinds)} | all | precision at 10 | at {pairs} |",
        "|---" * (len(kinds) + 4) + "|",
    ]
    for name, truth in rows.items():
        auc = [f"{truth['by_repeats'][k]['auc']:.3f}" for k in kinds]
        first = truth["precision_at"]
        lines.append(
            f"| `{name}` | {' | '.join(auc)} | {truth['auc']:.3f} | {first['10']:.2f} | {first[str(pairs)]:.2f} |"
        )
    magnitude = rows["magnitude"]["auc"]
    return [
        *lines,
        "",
        "`reference_ratio` is what `select` and `report` use where there is a `--reference`. The magnitude alone "
        f"has an AUC of {magnitude:.2f} here, as if the few pairs that fill the data were learnt without their "
        "captions too (not tested).",
        "",
    ]


def _kind(repeats: str, epochs: float) -> str:
    return f"{int(repeats):,} repeats, {int(repeats) * epochs:,.0f} exposures"


def _rules(found: dict[str, Any]) -> list[str]:
    kinds = _repeats(found)
    lines = [
        "What a rule takes out, all with `--reference`:",
        "",
        f"| `select` | {' | '.join(f'{int(k):,} repeats' for k in kinds)} | not planted |",
        "|---" * (len(kinds) + 2) + "|",
    ]
    for name, taken in found["rules"].items():
        cells = [f"{taken[k]['taken']} of {taken[k]['pairs']:,}" for k in [*kinds, "1"]]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "Ordinary training pairs were trained on too, if only once or twice, and the model fits them better than "
        "held-out ones; `select` moves and scales what all pairs score until their middle is the held-out pairs', and "
        "only then compares. The tail stays the held-out pairs', which is the heavier one here: at 1 % hardly an "
        "ordinary pair is lost, and few pairs of 50 repeats are found.",
        "",
    ]


def _removal(found: dict[str, Any]) -> list[str]:
    part, same = found["removal"], found["keep_list"]
    taken, rates = part["taken"], part["copy_rate"]
    lines = [
        "## Does training without them end the copies?",
        "",
        f"`select --reference --held-out --false-drop-rate {part['false_drop_rate']:g}`, `apply`, and the same "
        f"fine-tune on the shards that it wrote ({part['kept_samples']:,} samples kept, "
        f"{part['rejected_samples'].get('score', 0):,} set aside), with the same steps and seed. A generation counts "
        "as a copy where its nearest training image is its own prompt's and lies nearer than 95 % of held-out images "
        f"lie to theirs; {part['seeds']} generations a pair, guidance {part['guidance_scale']:g}, 95 % intervals over "
        "pairs.",
        "",
        "| pairs | taken out | copy rate, base | before | after |",
        "|---|---|---|---|---|",
    ]
    for repeats, row in taken.items():
        name = "not planted" if repeats == "1" else f"{int(repeats):,} repeats"
        cells = [f"{r['rate']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in (rates[m][repeats] for m in rates)]
        lines.append(f"| {name} | {row['taken']} of {row['pairs']:,} | {' | '.join(cells)} |")
    verdict = "equal bit by bit" if same["same_weights"] else "NOT equal"
    kept, applied = (same["trained"][name] for name in ("keep_list", "applied"))
    trained = (
        f"{kept:,} samples trained in both runs" if kept == applied else f"{kept:,} and {applied:,} samples trained"
    )
    return [
        *lines,
        "",
        "Pairs that are ranked first and have a copy rate of 0 before are found before they come back.",
        "",
        f"Held-out loss: {found['planted']['heldout_loss']:.4f} before, {part['heldout_loss']:.4f} after.",
        "",
        f"`data.keep_list` in the place of the new shards: after {same['steps']} steps "
        f"({trained}) the weights of the two runs are {verdict}.",
        "",
        *_rules(found),
    ]


def _throughput(found: dict[str, Any]) -> list[str]:
    part, machine = found["throughput"], found["machine"]
    names = {
        "forwards": "its VAE, text and UNet forwards, timed alone",
        "UNet": "its UNet forwards, timed alone",
    }
    lines = [
        "## Throughput",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, of which the process had {machine['cores_allowed']}; "
        f"{machine['threads']} thread for the model, torch "
        f"{machine['torch']}, Python {machine['python']}. {part['samples']} samples from one shard, from opening it "
        f"to its marker, without loading the model; {part['repeats']} repeats, each with one run of every row in turn. "
        "Only short commands ran beside it; by the clock the fastest run counts; CPU time is of all threads, so that "
        "what another core decodes counts in full, and is a median. The share is what the forwards alone take of the "
        "audit's time: of the fastest runs by the clock, and of CPU time within each repeat, median and range.",
        "",
        "| run | ms per sample, clock | CPU | forwards' share, clock | CPU | UNet forwards' share, CPU |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in part["rows"].items():
        label = names.get(name) or f"audit, {name.replace(', prefetch 0', ', no prefetch').replace(', prefetch 2', '')}"
        whole, unet = row["forwards_over_this"], row["UNet_over_this"]
        lines.append(
            f"| {label} | {1000 * row['seconds_per_sample']:.1f} | {1000 * row['cpu_seconds_per_sample']:.1f} "
            f"| {100 * whole['clock']:.0f} % | {_range(whole)} | {_range(unet)} |"
        )
    told = _told_of_the_aim(part["rows"])
    return [
        *lines,
        "",
        f"Aimed at: the forwards are at least {100 * AIM:.0f} % of the audit's time by the clock, as shipped. {told}.",
        "",
        "Images are decoded, hashed and resized by a thread that is two batches ahead (`prefetch`), on another core "
        "where there is one. The 512-pixel rows have the same forwards, at 32 pixels, and images that cost more to "
        "decode: with a model of that size a forward costs far more, and decoding less of the whole.",
        "",
    ]


def _told_of_the_aim(rows: dict[str, Any]) -> str:
    shares = {
        name.split(",")[0]: row["forwards_over_this"]["clock"]
        for name, row in rows.items()
        if name.endswith("prefetch 2")
    }
    return "; ".join(
        f"{name}, {100 * share:.0f} %: {'reached' if share >= AIM else '**not reached**'}"
        for name, share in shares.items()
    )


def _shards(found: dict[str, Any]) -> list[str]:
    part = found["shards"]
    lines = [
        "## Cost of shards",
        "",
        f"The same {part['samples']:,} samples in few and in many shards; {part['draws']} draw a sample, so that what "
        f"a shard costs weighs most; {part['repeats']} repeats, times as above.",
        "",
        "| shards | samples in each | ms per sample, clock | CPU | one shard's share, CPU |",
        "|---|---|---|---|---|",
    ]
    for parts, row in part["rows"].items():
        each = part["samples"] / int(parts)
        lines.append(
            f"| {parts} | {each:.4g} | {1000 * row['seconds_per_sample']:.1f} "
            f"| {1000 * row['cpu_seconds_per_sample']:.1f} | {_range(row['1_over_this'])} |"
        )
    return [
        *lines,
        "",
        "Aimed at: a cost per sample that does not grow with the number of shards. Many shards cost "
        f"{_more(part, max)} % more than one at most, and {_more(part, min)} % at least. "
        "Batches stay within a shard, so that a row does not depend on what else was audited or on where an audit was "
        "stopped; the last batch of a shard is a smaller one.",
        "",
    ]


def _more(part: dict[str, Any], which: Callable[[list[float]], float]) -> str:
    """Percent of CPU time by which many shards cost more than one."""
    shares = [row["1_over_this"]["median"] for parts, row in part["rows"].items() if parts != "1"]
    return f"{100 * which([1 / share - 1 for share in shares]):.0f}"


def _limits(found: dict[str, Any]) -> list[str]:
    return [
        "## Limits",
        "",
        "- One model, one seed, one set of planted pairs; 6 or 8 pairs of each kind, so intervals are wide.",
        "- A virtual machine whose host has other guests: times by the clock vary between repeats. `scripts/bench "
        "audit --only throughput --only shards --out FILE` measures them again.",
        "- No GPU was at hand: the share of forwards on one is not measured.",
        "",
    ]


def _range(row: dict[str, float]) -> str:
    middle, low, high = (f"{100 * row[name]:.0f}" for name in ("median", "low", "high"))
    return f"{middle} % ({low} to {high})"
