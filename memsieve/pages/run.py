"""One self-contained HTML page of a training run: what the filter did, to whom, when and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from memsieve.filtering.files import write_whole
from memsieve.pages.comparison import comparison_of, refuse_another
from memsieve.pages.members import members_of
from memsieve.pages.pair_pictures import kept_picture, pictures_of_pairs
from memsieve.pages.rendering import render
from memsieve.pages.run_charts import run_charts
from memsieve.pages.run_data import GroupRow, RunData, accounting, asked_of_all, load_run, removed_and_near
from memsieve.pages.said import share, sig, why_condemned

__all__ = ["build_report"]

MOST_GROUPS, NEAR, MOST_FAILED, MOST_SAMPLES = 150, 12, 50, 6


def build_report(run: Path, out: Path | None = None, comparison: Path | None = None) -> Path:
    """Write the page of ``run`` to ``out`` (default: report.html in the run's folder) and return its path.

    ``comparison`` is a JSON file of rows, each with a name and a copy rate, and a picture beside it; by default the
    run's own comparison.json where it has one. A page with a comparison that was named is report-NAME.html by default,
    and no page with another comparison is written over.

    Raises:
        ValueError: ``run`` is no training run, ``comparison`` was named and cannot be read, or ``out`` is the page of
            another comparison.
    """
    run = Path(run)
    data = load_run(run)
    compared = comparison_of(data, comparison)
    named = "report.html" if comparison is None else f"report-{Path(comparison).stem}.html"
    target = run / named if out is None else Path(out)
    refuse_another(target, compared)
    removed, near, total = removed_and_near(data, MOST_GROUPS, NEAR)
    pictures = pictures_of_pairs(data, [*removed, *near])
    context = {
        "title": run.resolve().name,
        "written": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "headline": _headline(data, removed, total),
        "use": _use(data),
        "warnings": _warnings(data, total),
        "facts": _facts(data),
        "accounting": accounting(data.summary),
        "ledger_check": _ledger_check(data),
        "comparison": compared,
        "charts": run_charts(data, {row.group for row in removed}),
        "removed": removed,
        "removed_total": total,
        "near": near,
        "keys": {row.group: row.keys for row in [*removed, *near]},
        "pictures": pictures,
        "drawings": any(one.before or one.now for one in pictures.values()) or asked_of_all(data),
        "checked": (run / "check" / "check.json").is_file(),
        "why": {row.group: why_condemned(row, data.evidence) for row in removed},
        "all_pairs": asked_of_all(data),
        "chances": data.chances,
        "members": members_of(data.config, [row.group for row in [*removed, *near]], data.notes),
        "failed": _failed(data),
        "samples": [(file.stem, kept_picture(file, 1400)) for file in _spread(data.samples, MOST_SAMPLES)],
        "config": data.config,
        "notes": data.notes,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, render("report.html", context))
    return target


def _plural(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _headline(data: RunData, removed: Sequence[GroupRow], total: int) -> str:
    """What the filter did, in words with numbers."""
    summary, known = data.summary or {}, len(data.groups)
    steps = summary.get("steps") or int(max((x[-1] for x, _ in data.metrics.values()), default=0))
    books = accounting(data.summary)
    text = []
    if books:
        read, trained = books["read"], books["parts"][0][2]
        portion = f" ({share(trained / read)})" if read else ""
        text.append(
            f"In {_plural(steps, 'step')} the run read {_plural(read, 'sample')} and trained on {trained:,}{portion}."
        )
    else:
        text.append(f"The run wrote no totals (summary.json); its records reach step {steps:,}.")
    if not total:
        text.append("The filter removed no group.")
        return " ".join(text)
    of = f" of {known:,}" if known else ""
    condemned = [row for row in removed if row.condemned_step is not None]
    if condemned and total <= MOST_GROUPS:
        first = min(condemned, key=lambda row: row.condemned_step or 0)
        seen = f", after {_plural(first.trained, 'exposure')}" if first.trained and first.action in ("", "drop") else ""
        number = len(condemned)
        text.append(f"The filter condemned {number:,}{of} groups, the first at step {first.condemned_step:,}{seen}.")
        if total > number:
            text.append(f"Another {_plural(total - number, 'group')} lost single visits.")
    else:
        text.append(f"The filter removed samples of {total:,}{of} groups.")
    if books and books["read"]:
        dropped = sum(count for _, kind, count in books["parts"] if kind == "dropped")
        kept_out = f"That kept {_plural(dropped, 'visit')} ({share(dropped / books['read'])}) out of the updates."
        text.append(kept_out if dropped else "None of their visits was dropped.")
    return " ".join(text)


def _use(data: RunData) -> dict[str, Any] | None:
    """Does it copy, does it overfit, and which model is to be taken: a sentence, and whether something is wrong."""
    summary = data.summary or {}
    use = summary.get("use")
    if not isinstance(use, dict):
        return None
    said = []
    if isinstance(copies := summary.get("copies"), bool):
        said.append("It copies." if copies else "It does not copy.")
    overfits = summary.get("overfitting")
    known = "It overfits." if overfits else "It does not overfit."
    said.append(known if isinstance(overfits, bool) else "Nobody knows whether it overfits.")
    model = f"Use {use.get('folder')} (step {use.get('step')})" if use.get("folder") else "None of this run's models"
    kind = "bad" if copies or overfits else "good" if overfits is False else ""
    return {"text": f"{' '.join(said)} {model}: {use.get('why')}.", "kind": kind}


def _warnings(data: RunData, total: int) -> list[str]:
    summary, found = data.summary or {}, []
    if not asked_of_all(data) and len(data.groups) and total > len(data.groups) / 2:
        found.append(
            f"{total:,} of {len(data.groups):,} groups were removed: that is a run overfitting as a whole, not a "
            "filter finding a few memorised pairs. Stop earlier, or train on more data."
        )
    failed = sum(count for _, kind, count in (accounting(data.summary) or {"parts": []})["parts"] if kind == "failed")
    if failed:
        found.append(f"{_plural(failed, 'sample')} could not be used; see Failed samples.")
    skipped = summary.get("skipped_steps")
    if isinstance(skipped, (int, float)) and skipped > 0:
        found.append(f"{_plural(int(skipped), 'optimizer step')} skipped because every sample in it was dropped.")
    return found


def _facts(data: RunData) -> list[tuple[str, str]]:
    summary = data.summary or {}
    names = {
        "steps": "Steps", "heldout_loss": "Held-out loss", "heldout_groups": "Held-out groups", "seed": "Seed",
        "step_seconds_median": "Median step", "skipped_steps": "Skipped steps",
    }  # fmt: skip
    facts = []
    for key, name in names.items():
        value = summary.get(key)
        if value is not None:
            text = str(value) if key == "seed" else sig(value)
            facts.append((name, f"{text} s" if key == "step_seconds_median" else text))
    return facts


def _ledger_check(data: RunData) -> str:
    """Whether the ledger's rows and the summary's total agree on what was dropped."""
    dropped = data.summary.get("dropped") if data.summary else None
    if not isinstance(dropped, dict) or not len(data.ledger):
        return ""
    rows = pc.sum(pc.is_in(data.ledger["action"], pc.cast(["drop", "cap", "retire"], "string"))).as_py() or 0
    told = sum(count for count in dropped.values() if isinstance(count, int))
    verdict = "which agrees" if rows == told else "which does NOT agree"
    return f"The ledger holds {_plural(rows, 'row')} of dropped samples; the summary counts {told:,}, {verdict}."


def _failed(data: RunData) -> dict[str, Any]:
    table = data.ledger.filter(pc.equal(data.ledger["action"], "failed"))
    rows = table.slice(0, MOST_FAILED).select(["step", "key", "shard", "error", "reason"]).to_pylist()
    return {"rows": rows, "total": len(table)}


def _spread(files: Sequence[Path], most: int) -> list[Path]:
    if len(files) <= most:
        return list(files)
    return [files[round(number * (len(files) - 1) / (most - 1))] for number in range(most)]
