"""Copy rates of several runs beside each other on a run's page, from a JSON file; a page is of one comparison."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, Final

from memsieve.pages.pair_pictures import kept_picture
from memsieve.pages.run_data import RunData
from memsieve.pages.said import sig

__all__ = ["comparison_of", "refuse_another"]

_HEAD: Final = 8192
"""Characters of a page in which it says of which comparison it is."""


def comparison_of(data: RunData, named: Path | None) -> dict[str, Any] | None:
    """What the page shows of the comparison that was named, or of the run's own; None where there is none.

    Raises:
        ValueError: the one that was named cannot be read.
    """
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
        "picture": kept_picture(picture, 1600) if inside else None,
        "mark": hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16],
    }


def refuse_another(target: Path, compared: dict[str, Any] | None) -> None:
    """Refuse to write over a page that shows another comparison, or to lose the one that it shows.

    Raises:
        ValueError: it is such a page.
    """
    if not target.is_file():
        return
    with target.open(encoding="utf-8", errors="replace") as file:
        found = re.search(r'<meta name="memsieve-comparison" content="([0-9a-f]{16})">', file.read(_HEAD))
    if found is not None and (compared is None or compared["mark"] != found[1]):
        raise ValueError(f"--out: '{target}' shows another comparison of runs; name another page")


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
    shown["more"] = "; ".join(f"{key.replace('_', ' ')} {sig(value)}" for key, value in more)
    return shown
