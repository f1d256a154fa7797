"""What a run did to each pair: how often it was read, whether it was dropped, when first, and how it was ranked."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from memsieve.filtering.data.group_table import group_table
from memsieve.filtering.ledger import read_ledger

__all__ = ["decisions", "short", "thresholds"]

LATE: Final = 0.25
"""A pair is dropped where at least half of the last quarter of its visits trained nothing, or it ends condemned."""
UNSCORED: Final = -9.0
MAGNITUDES: Final = ("magnitude", "anchored_magnitude")
"""What the paper's rule tests, one of them in a run."""
"""Evidence of a group that was never measured: below all that were."""


def decisions(
    run: Path, data: Path, part: str, score: str, groups: Path | None = None, *, whole: str = "stream"
) -> dict[str, Any]:
    """Per pair: visits, how many trained, whether it was dropped, the visit that was dropped first, its score.

    Pairs that come more than once a pass are told one by one, the others as columns by case.

    Args:
        run: the run's folder.
        data: the stream's folder.
        part: of the data that the run read.
        score: what ranks pairs, see ``Method``.
        groups: a table of groups that the run took.
        whole: the part that counts as all that there is.
    """
    truth = pq.read_table(data / "truth.parquet").to_pylist()
    stream = [row for row in truth if row["part"] == whole]
    pairs = {row["pair"]: row for row in stream}
    standings = _standings(run) if score == "evidence" else {}
    joined = group_table(str(groups)) if groups is not None else {}
    left = Counter(row["pair"] for row in truth if row["part"] == part)
    rows = Counter(row["pair"] for row in stream)
    visits = _visits(run, {row["key"]: row["pair"] for row in truth})
    members: dict[str, Counter[str]] = {name: Counter() for name in pairs}
    for row in stream:
        members[row["pair"]][joined.get(row["group"], row["group"])] += 1
    found: dict[str, list[dict[str, Any]]] = {}
    for name, row in sorted(pairs.items()):
        told: dict[str, Any] = {"pair": name, "case": row["case"], "repeats": row["repeats"]}
        seen = visits.get(name)
        standing = [(standings.get(group, (UNSCORED, False)), count) for group, count in members[name].items()]
        condemned = sum(count for (_, guilty), count in standing if guilty) / rows[name]
        if seen is not None:
            told |= _of_visits(seen) | {"condemned": round(condemned, 3)}
            told["dropped"] = told["late"] >= 0.5 or condemned >= 0.5
        removed = rows[name] - left[name]
        numbers = {
            "evidence": sum(value * count for (value, _), count in standing) / rows[name],
            "margin": seen["margin"] if seen is not None else math.nan,
            "exposures": float(told.get("visits", 0)),
            "removed": float(removed),
        }
        if score == "removed":
            told["dropped"] = removed * 2 >= rows[name]
        if score:
            told["score"] = short(numbers[score])
        found.setdefault("singles" if row["repeats"] == 1 else "pairs", []).append(told)
    return {"pairs": found.get("pairs", []), "singles": _columns(found.get("singles", []))}


def _standings(run: Path) -> dict[str, tuple[float, bool]]:
    """Group -> largest evidence, and whether it ended condemned."""
    rows = pq.read_table(run / "groups.parquet").to_pylist()
    return {r["group"]: (max(r["evidence_max"], UNSCORED), r["condemned_step"] >= 0) for r in rows}


def _visits(run: Path, pair_of: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Pair -> its visits in order: did each train, and the mean of the rule's margin."""
    if not (run / "ledger").is_dir():
        return {}
    table = read_ledger(run / "ledger").select(
        ["key", "weight", "action", *MAGNITUDES, "score", "evidence", "threshold"]
    )
    found: dict[str, dict[str, Any]] = {}
    for row in table.to_pylist():
        name = pair_of.get(row["key"])
        if name is None or row["action"] in ("failed", "held_out"):
            continue
        entry = found.setdefault(name, {"trained": [], "margins": []})
        entry["trained"].append(row["weight"] > 0)
        entry["margins"].append(_margin(row))
    for entry in found.values():
        usable = [value for value in entry["margins"] if value is not None]
        entry["margin"] = float(np.mean(usable)) if usable else math.nan
    return found


def _margin(row: dict[str, Any]) -> float | None:
    """How far a visit lies beyond the rule: log m / tau for the paper's, by the anchored magnitude where that decides;
    its own number for a rival's."""
    tau, found = row["threshold"], [row[name] for name in MAGNITUDES if row.get(name) is not None]
    if found and tau and math.isfinite(tau) and tau > 0.0:
        return math.log(max(found[0], 1e-12) / tau)
    return row["evidence"] if tau == 0.0 else row["score"]  # type: ignore[no-any-return]


def _of_visits(seen: dict[str, Any]) -> dict[str, Any]:
    trained: list[bool] = seen["trained"]
    last = trained[-max(1, math.ceil(LATE * len(trained))) :]
    first = next((i for i, kept in enumerate(trained) if not kept), None)
    return {"visits": len(trained), "trained": sum(trained), "late": round(1.0 - sum(last) / len(last), 3),
            "first": first}  # fmt: skip


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Many pairs in few bytes: by case, their scores and who of them was dropped."""
    table: dict[str, Any] = {}
    for case in sorted({row["case"] for row in rows}):
        mine = [row for row in rows if row["case"] == case]
        table[case] = {"count": len(mine)}
        for name in ("score", "visits"):
            if any(name in row for row in mine):
                table[case][name] = [row.get(name) for row in mine]
        if any("dropped" in row for row in mine):
            table[case]["dropped"] = [i for i, row in enumerate(mine) if row.get("dropped")]
    return table


def thresholds(run: Path, data: Path, passes: int, least: int = 50, signal: str = "magnitude") -> dict[str, Any]:
    """tau of the paper's rule for ``signal``, on a run that it did not touch: ``best`` has the largest difference
    between the share of visits of pairs with ``least`` exposures or more that it drops and that of ordinary pairs'
    (Youden's index); ``five`` drops 5 % of ordinary pairs' visits. With each the two shares."""
    truth = {row["key"]: row for row in pq.read_table(data / "truth.parquet").to_pylist() if row["part"] == "stream"}
    rows = read_ledger(run / "ledger").select(["key", signal]).to_pylist()
    both = {True: [], False: []}  # type: dict[bool, list[float]]
    for row in rows:
        repeats = truth[row["key"]]["repeats"]
        if row[signal] is not None and (repeats == 1 or repeats * passes >= least):
            both[repeats > 1].append(row[signal])
    planted, ordinary = (np.array(both[kind]) for kind in (True, False))
    grid = np.unique(np.quantile(np.concatenate([planted, ordinary]), np.linspace(0.02, 0.995, 196)))
    best = grid[np.argmax([(planted > tau).mean() - (ordinary > tau).mean() for tau in grid])]
    found: dict[str, Any] = {}
    for name, tau in (("best", best), ("five", np.quantile(ordinary, 0.95))):
        found[name] = round(float(tau), 4)
        found[f"{name}_shares"] = [short(float((kind > tau).mean())) for kind in (planted, ordinary)]
    return found


def short(value: float, digits: int = 4) -> Any:
    """A number for JSON: rounded; None where there is none."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
