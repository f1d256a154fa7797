"""One self-contained HTML page of a training run: what the filter did, to whom, when and why."""

from __future__ import annotations

import base64
import io
import json
import math
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from memsieve.pages.members import members_of
from memsieve.pages.run_charts import run_charts
from memsieve.pages.run_data import GroupRow, RunData, accounting, asked_of_all, load_run, removed_and_near

__all__ = ["build_report"]

MOST_GROUPS, NEAR, MOST_FAILED, MOST_SAMPLES = 150, 12, 50, 6


def build_report(run: Path, out: Path | None = None, comparison: Path | None = None) -> Path:
    """Write the page of ``run`` to ``out`` (default: report.html in the run's folder) and return its path.

    ``comparison`` is a JSON file of rows, each with a name and a copy rate, and a picture beside it; by default the
    run's own comparison.json where it has one.

    Raises:
        ValueError: ``run`` is no training run, or ``comparison`` was named and cannot be read.
    """
    run = Path(run)
    data = load_run(run)
    removed, near, total = removed_and_near(data, MOST_GROUPS, NEAR)
    context = {
        "title": run.resolve().name,
        "written": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "nonce": secrets.token_hex(12),
        "headline": _headline(data, removed, total),
        "use": _use(data),
        "warnings": _warnings(data, total),
        "facts": _facts(data),
        "accounting": accounting(data.summary),
        "ledger_check": _ledger_check(data),
        "comparison": _comparison(data, comparison),
        "charts": run_charts(data, {row.group for row in removed}),
        "removed": removed,
        "removed_total": total,
        "near": near,
        "keys": {row.group: row.keys for row in [*removed, *near]},
        "thumbnails": {row.group: _thumbnail(run / "thumbnails", row.group) for row in [*removed, *near]},
        "drawn": {row.group: _thumbnail(run / "drawn", row.group) for row in [*removed, *near]},
        "all_pairs": asked_of_all(data),
        "chances": data.chances,
        "members": members_of(data.config, [row.group for row in [*removed, *near]], data.notes),
        "failed": _failed(data),
        "samples": [(file.stem, _picture(file, 1400)) for file in _spread(data.samples, MOST_SAMPLES)],
        "config": data.config,
        "notes": data.notes,
    }
    environment = Environment(loader=PackageLoader("memsieve.pages"), autoescape=True, undefined=StrictUndefined)
    environment.filters.update(count=_count, sig=_sig, share=_share)
    page = environment.get_template("report.html").render(context)
    target = run / "report.html" if out is None else Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    return target


def _count(value: Any) -> str:
    return "–" if value is None else f"{value:,}"


def _sig(value: Any) -> str:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return "–" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _share(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    percent = 100 * value
    text = f"{percent:.0f}" if percent in (0, 100) or 10 <= percent < 99 else f"{percent:.2g}" if percent < 10 else ""
    return f"{text or f'{percent:.1f}'}\u00a0%"


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
        portion = f" ({_share(trained / read)})" if read else ""
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
        kept_out = f"That kept {_plural(dropped, 'visit')} ({_share(dropped / books['read'])}) out of the updates."
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
    return {"text": f"{' '.join(said)} {model}: {use.get('why')}.", "ill": bool(copies) or overfits is True}


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
            text = str(value) if key == "seed" else _sig(value)
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


def _comparison(data: RunData, named: Path | None) -> dict[str, Any] | None:
    file = data.path / "comparison.json" if named is None else Path(named)
    if named is None and not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if named is not None:
            raise ValueError(f"comparison '{file}' could not be read: {error}") from error
        data.notes.append(f"comparison.json could not be read: {error}")
        return None
    content = content if isinstance(content, dict) else {"rows": content}
    found = content.get("rows")
    rows = [_compared(row) for row in (found if isinstance(found, list) else []) if isinstance(row, dict)]
    picture = (file.parent / str(content.get("picture", "comparison.png"))).resolve()
    inside = picture.is_relative_to(file.parent.resolve())
    return {
        "title": str(content.get("title", "With and without the filter")),
        "note": str(content.get("note", "")),
        "rows": rows,
        "picture": _picture(picture, 1600) if inside else None,
    }


def _compared(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the page shows it: name, rate, low, high (None where unknown), and the other numbers in words."""
    rate = row.get("copy_rate", row.get("rate"))
    values = {**row, **rate} if isinstance(rate, dict) else {**row, "rate": rate}
    shown = {"name": str(next((row[key] for key in ("name", "label", "mode", "run") if key in row), "?"))}
    edges = {"rate": values.get("rate"), "low": values.get("low", values.get("copy_rate_low"))}
    edges["high"] = values.get("high", values.get("copy_rate_high"))
    for key, value in edges.items():
        plain = isinstance(value, (int, float)) and math.isfinite(value)
        shown[key] = min(1.0, max(0.0, float(value))) if plain else None  # type: ignore[arg-type, assignment]
    used = ("name", "label", "mode", "run", "copy_rate", "rate", "low", "high", "copy_rate_low", "copy_rate_high")
    more = [(key, value) for key, value in row.items() if key not in used and isinstance(value, (int, float, str))]
    shown["more"] = "; ".join(f"{key.replace('_', ' ')} {_sig(value)}" for key, value in more)
    return shown


def _spread(files: Sequence[Path], most: int) -> list[Path]:
    if len(files) <= most:
        return list(files)
    return [files[round(number * (len(files) - 1) / (most - 1))] for number in range(most)]


def _thumbnail(folder: Path, group: str) -> Markup | None:
    folder = folder.resolve()
    file = (folder / f"{group}.png").resolve() if "\0" not in group else folder
    return _picture(file, 128) if file.is_relative_to(folder) else None


def _picture(file: Path, side: int) -> Markup | None:
    """The picture as a data URI, at most ``side`` pixels a side; None where there is none that can be read.

    It is decoded and encoded anew, so that nothing but pixels reaches the page.
    """
    try:
        with Image.open(file) as opened:
            opened.thumbnail((side, side))
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    buffer = io.BytesIO()
    small = max(picture.size) <= 160
    picture.save(buffer, "PNG", optimize=True) if small else picture.save(buffer, "JPEG", quality=88)
    kind = "png" if small else "jpeg"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}")
