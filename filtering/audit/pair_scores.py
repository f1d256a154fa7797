"""One number per row of an audit, made of its draws: higher speaks more for having been learned by heart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from memsieve.filtering.audit.query import AuditQuery, Rows
from memsieve.filtering.audit.records import MEASURES
from memsieve.filtering.audit.table import Array, matrix
from memsieve.filtering.settings import SettingsError
from memsieve.filtering.signals import SIGNALS, UNCONDITIONAL
from memsieve.filtering.statistics import median_and_spread

__all__ = ["AUDIT_SIGNALS", "SAMPLE", "WITH_REFERENCE", "Draws", "default_signals", "drawn_sample", "score_pairs"]

AUDIT_SIGNALS: Final = ("magnitude", "loss_gap", "loss", "reference_ratio", "magnitude_ratio")
WITH_REFERENCE: Final = ("reference_ratio", "magnitude_ratio")
TINY: Final = 1e-12
PER_BIN: Final = 50
"""Draws that a t-bin needs for a median and a spread of its own."""
SAMPLE: Final = 1_000_000
"""Rows that medians, quantiles and histograms of draws are taken from; all of them where there are fewer."""
_SCHEMA: Final = pa.schema([("row", pa.int64()), ("score", pa.float64())])


@dataclass(slots=True)
class Draws:
    """What was drawn for some rows: ``timesteps`` [N, K] and ``values[name]`` [N, K], NaN where not measured; with a
    reference its values for the same pairs and draws."""

    rows: Array
    timesteps: Array
    values: dict[str, Array]
    reference: dict[str, Array] | None = None


def default_signals(rows: Rows, reference: object | None) -> tuple[str, ...]:
    """What pairs are ranked by where nothing is said: two models compared, else magnitude, which needs guidance."""
    if reference is not None:
        return ("reference_ratio",)
    return ("loss",) if (rows.about["deciding"]["model"] or {}).get("distilled") else ("magnitude",)


def score_pairs(
    query: AuditQuery, rows: Rows, signals: tuple[str, ...], *, reference: Rows | None = None, null: Rows | None = None
) -> None:
    """Make the view ``NAME_scores`` (``row``, ``score``, null where there is none) of ``rows``, and that of ``null``.

    One signal: its mean over draws (``loss``: minus the mean). Several: each draw's evidence as a z-score against
    the median and MAD of its t-bin, summed over signals, then averaged over draws. The bins are filled by ``null``
    (held-out pairs) where it is given, else by the audit's own pairs, of which most must then be ordinary.

    Raises:
        SettingsError: a signal is unknown or needs a reference, or the audits do not fit together.
    """
    _check(rows, signals, reference)
    if null is not None:
        _fits(rows, null, "--held-out", same_model=True)
    if any(name in WITH_REFERENCE for name in signals):
        assert reference is not None
        _fits(rows, reference, "--reference", same_model=False)
        _first_of_pairs(query, reference)
    else:
        reference = None
    bins = None
    if len(signals) > 1:
        steps = int(rows.about["deciding"]["model"]["num_train_timesteps"])
        base = drawn_sample(query, rows if null is None else null, reference)
        bins = _Bins(_evidence(base, signals), base.timesteps, steps)
    for audit in (rows, null):
        if audit is not None:
            query.store(f"{audit.name}_scores", _SCHEMA, _scored(query, audit, signals, reference, bins))


def drawn_sample(query: AuditQuery, rows: Rows, reference: Rows | None = None) -> Draws:
    """Draws of the first row of each pair, of ``SAMPLE`` pairs by chance where there are more: a pair that stands there
    often does not make itself ordinary, and copies of a pair draw the same."""
    first = f"SELECT min(row) AS row FROM {rows.name} WHERE content IS NOT NULL GROUP BY content"
    query.run(
        f"CREATE OR REPLACE TABLE {rows.name}_sample AS SELECT row FROM ({first}) "
        f"USING SAMPLE reservoir({SAMPLE} ROWS) REPEATABLE (0)"
    )
    parts = list(_read(query, rows, reference, f"SEMI JOIN {rows.name}_sample s ON s.row = a.row"))
    if not parts:
        return Draws(np.zeros(0, np.int64), np.zeros((0, 0)), {name: np.zeros((0, 0)) for name in MEASURES})
    together = parts[0].reference is not None
    return Draws(
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.timesteps for part in parts]),
        {name: np.concatenate([part.values[name] for part in parts]) for name in MEASURES},
        {name: np.concatenate([part.reference[name] for part in parts if part.reference]) for name in MEASURES}
        if together
        else None,
    )


def _check(rows: Rows, signals: tuple[str, ...], reference: Rows | None) -> None:
    for name in signals:
        if name not in AUDIT_SIGNALS:
            raise SettingsError(f"--score = '{name}' is not known; use {', '.join(AUDIT_SIGNALS)}")
        if name in WITH_REFERENCE and reference is None:
            raise SettingsError(f"--score {name} compares two models: name the base model's audit with --reference")
    distilled = (rows.about["deciding"]["model"] or {}).get("distilled")
    wanting = [name for name in signals if distilled and UNCONDITIONAL & SIGNALS[name].needs]
    if wanting:
        raise SettingsError(
            f"--score = '{'+'.join(signals)}': {', '.join(wanting)} could not be measured with this model: "
            f"{distilled}; use loss, or reference_ratio with --reference"
        )


def _fits(rows: Rows, other: Rows, option: str, *, same_model: bool) -> None:
    """Refuse two audits whose numbers cannot be put side by side.

    Raises:
        SettingsError: names what differs.
    """
    a, b = rows.about["deciding"], other.about["deciding"]
    if a["model"] is None or b["model"] is None:
        raise SettingsError(f"{option}: an audit without a model (--data-only) has no scores to compare")
    pairs = {name: (a[name], b[name]) for name in ("seed", "strata")}
    pairs |= {name: (a["data"].get(name), b["data"].get(name)) for name in ("resolution", "buckets")}
    pairs |= {name: (a["model"][name], b["model"][name]) for name in ("num_train_timesteps", "latent_shape")}
    pairs["the model" if same_model else "the VAE"] = (
        (a["model"]["hash"], b["model"]["hash"])
        if same_model
        else (a["model"]["parts"].get("vae"), b["model"]["parts"].get("vae"))
    )
    for name, (one, two) in pairs.items():
        if one != two:
            raise SettingsError(
                f"{option}: its audit and this one differ in {name} ({str(one)[:16]} and {str(two)[:16]}), so their "
                "draws are not the same; audit both with the same settings"
            )


def _first_of_pairs(query: AuditQuery, reference: Rows) -> None:
    """The reference's first row of each image and caption: what other audits' rows are compared with."""
    query.run(
        f"CREATE OR REPLACE TABLE {reference.name}_pairs AS SELECT content, caption_hash, min(row) AS row "
        f"FROM {reference.name} WHERE content IS NOT NULL GROUP BY content, caption_hash"
    )


def _read(query: AuditQuery, rows: Rows, reference: Rows | None, more: str = "") -> Iterator[Draws]:
    """All rows that were measured, batch by batch, in no order."""
    names = ["timesteps", *MEASURES]
    own = ", ".join(f"a.{name}" for name in names)
    if reference is None:
        sql = f"SELECT a.row, {own} FROM {rows.name} a {more}"
    else:
        others = ", ".join(f"b.{name} AS other_{name}" for name in names)
        sql = (
            f"SELECT a.row, {own}, {others} FROM {rows.name} a {more} LEFT JOIN {reference.name}_pairs p "
            "ON p.content = a.content AND p.caption_hash = a.caption_hash "
            f"LEFT JOIN {reference.name} b ON b.row = p.row"
        )
    width = int(rows.about["deciding"].get("draws", 0))
    for batch in query.batches(sql):
        columns = {name: batch.column(name) for name in batch.schema.names}
        timesteps = matrix(columns["timesteps"], width)
        values = {name: matrix(columns[name], width) for name in MEASURES}
        found = Draws(columns["row"].to_numpy(), timesteps, values)
        if reference is not None:
            found.reference = _of_reference(columns, reference, timesteps)
        yield found


def _of_reference(columns: dict[str, pa.Array], reference: Rows, timesteps: Array) -> dict[str, Array]:
    """The reference's draws for each row; NaN where it lacks the pair or the draw."""
    width = int(reference.about["deciding"].get("draws", 0))
    theirs = matrix(columns["other_timesteps"], width)
    common = min(width, timesteps.shape[1])
    ours, others = timesteps[:, :common], theirs[:, :common]
    if np.any((ours != others) & ~np.isnan(ours) & ~np.isnan(others)):
        raise SettingsError("--reference: the two audits drew other timesteps for the same pair; audit both again")
    found = {}
    for name in MEASURES:
        found[name] = np.full(timesteps.shape, np.nan)
        found[name][:, :common] = matrix(columns[f"other_{name}"], width)[:, :common]
    return found


def _scored(
    query: AuditQuery, rows: Rows, signals: tuple[str, ...], reference: Rows | None, bins: _Bins | None
) -> Iterator[pa.RecordBatch]:
    for draws in _read(query, rows, reference):
        evidence = _evidence(draws, signals)
        scores = _mean(evidence if bins is None else bins.normalise(evidence, draws.timesteps))
        column = pa.array(scores, pa.float64(), from_pandas=True)
        yield pa.record_batch([pa.array(draws.rows, pa.int64()), column], schema=_SCHEMA)


def _evidence(draws: Draws, signals: tuple[str, ...]) -> list[Array]:
    """Per signal [N, K], higher = more of what the signal looks for."""
    found, several, other = [], len(signals) > 1, draws.reference
    for name in signals:
        if name == "loss":
            loss = draws.values["loss"]
            found.append(-np.log(np.maximum(loss, TINY)) if several else -loss)
        elif name == "reference_ratio":
            assert other is not None
            ratio = draws.values["loss"] / np.maximum(other["loss"], TINY)
            found.append(-np.log(np.maximum(ratio, TINY)) if several else 1.0 - ratio)
        elif name == "magnitude_ratio":
            assert other is not None
            ours, theirs = (np.log(np.maximum(m, TINY)) for m in (draws.values["magnitude"], other["magnitude"]))
            found.append(ours - theirs)
        else:
            value = draws.values[name]
            found.append(np.log(np.maximum(value, TINY)) if several and name == "magnitude" else value)
    return found


class _Bins:
    """Median and robust spread of each signal in each t-bin."""

    def __init__(self, evidence: list[Array], timesteps: Array, steps: int) -> None:
        self.steps = steps
        self.count = int(min(10, max(1, timesteps.size // PER_BIN)))
        where = self._bin(timesteps)
        self.tables: list[list[tuple[float, float]]] = []
        for values in evidence:
            self.tables.append([_spread(values[where == number]) for number in range(self.count)])

    def _bin(self, timesteps: Array) -> Array:
        safe = np.where(np.isnan(timesteps), -1, timesteps)
        return np.floor(safe * self.count / self.steps).astype(int)

    def normalise(self, evidence: list[Array], timesteps: Array) -> list[Array]:
        """Evidence as z-scores of its bin."""
        where = np.clip(self._bin(timesteps), 0, self.count - 1)
        out = []
        for values, table in zip(evidence, self.tables, strict=True):
            middle, spread = (np.array(column)[where] for column in zip(*table, strict=True))
            out.append((values - middle) / spread)
        return out


def _spread(values: Array) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    middle, spread = median_and_spread(values)
    return float(middle), max(float(spread), 1e-6)


def _mean(evidence: list[Array]) -> Array:
    """Sum over signals, mean over the draws at which all of them say something."""
    total: Any = np.sum(evidence, axis=0)
    known = np.isfinite(total)
    count = known.sum(axis=1)
    mean = np.where(known, total, 0.0).sum(axis=1) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)
