"""The scores of an audit as one table, and one number per pair made of its draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.audit.folder import AuditFolder
from memsieve.filtering.audit.records import MEASURES
from memsieve.filtering.audit.status import audit_status
from memsieve.filtering.settings import SettingsError
from memsieve.filtering.signals import SIGNALS
from memsieve.filtering.statistics import median_and_spread

__all__ = ["AUDIT_SIGNALS", "Array", "Scores", "distinct_rows", "load_scores", "pair_scores"]

Array = np.ndarray[Any, Any]
AUDIT_SIGNALS: Final = ("magnitude", "loss_gap", "loss", "reference_ratio", "magnitude_ratio")
WITH_REFERENCE: Final = ("reference_ratio", "magnitude_ratio")
PLAIN: Final = ("shard", "index", "key", "part", "uid", "status", "error", "sha256", "caption_hash", "phash")
TINY: Final = 1e-12
PER_BIN: Final = 50
"""Draws that a t-bin needs for a median and a spread of its own."""


@dataclass(slots=True)
class Scores:
    """An audit's rows in order; ``timesteps`` [N, K] and ``draws[name]`` [N, K], NaN where not measured."""

    about: dict[str, Any]
    table: pa.Table
    timesteps: Array
    draws: dict[str, Array]

    def __len__(self) -> int:
        return len(self.table)


def load_scores(root: Path, *, partial: bool = False, columns: tuple[str, ...] = PLAIN) -> Scores:
    """The rows of the audit in ``root`` that are done, in the order of its tasks.

    Raises:
        SettingsError: it is no audit, or is not complete and ``partial`` is off.
    """
    folder = AuditFolder(root)
    about = folder.settings()
    status = audit_status(root)
    open_tasks = status.counts["missing"] + status.counts["stale"]
    if open_tasks and not partial:
        raise SettingsError(
            f"the audit in '{root}' is not complete: {open_tasks} of {len(status.states)} shards are missing or stale; "
            "run 'memsieve audit score' again, or add --partial to go on with the others"
        )
    done = [state.task for state in status.states if state.state in ("done", "gone")]
    if not done:
        raise SettingsError(f"the audit in '{root}' has no finished shard yet; run 'memsieve audit score'")
    wanted = [*columns, "timesteps", *MEASURES]
    table = pa.concat_tables(pq.read_table(folder.scores(task), columns=wanted) for task in done)
    width = int(about["deciding"].get("draws", 0))
    draws = {name: _matrix(table[name], width) for name in MEASURES}
    return Scores(about, table.select(list(columns)), _matrix(table["timesteps"], width), draws)


def _matrix(column: pa.ChunkedArray, width: int) -> Array:
    """A list column as float64 [N, width], rows without a list as NaN."""
    found = np.full((len(column), width), np.nan)
    lists = column.combine_chunks()
    valid = np.flatnonzero(lists.is_valid().to_numpy(zero_copy_only=False))
    if width and len(valid):
        found[valid] = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, width)
    return found


def default_signals(scores: Scores, reference: object | None) -> tuple[str, ...]:
    """What pairs are ranked by where nothing is said: two models compared, else magnitude, which needs guidance."""
    if reference is not None:
        return ("reference_ratio",)
    return ("loss",) if (scores.about["deciding"]["model"] or {}).get("distilled") else ("magnitude",)


def pair_scores(
    scores: Scores,
    signals: tuple[str, ...],
    *,
    reference: Scores | None = None,
    null: Scores | None = None,
) -> tuple[Array, Array | None]:
    """One number per row, higher = more likely memorised, NaN where there is none; and those of ``null``.

    One signal: its mean over draws (``loss``: minus the mean). Several: each draw's evidence as a z-score against
    the median and MAD of its t-bin, summed over signals, then averaged over draws. The bins are filled by ``null``
    (held-out pairs) where it is given, else by the audit's own pairs, of which most must then be ordinary.

    Raises:
        SettingsError: a signal is unknown or needs a reference, or the audits do not fit together.
    """
    for name in signals:
        if name not in AUDIT_SIGNALS:
            raise SettingsError(f"--score = '{name}' is not known; use {', '.join(AUDIT_SIGNALS)}")
        if name in WITH_REFERENCE and reference is None:
            raise SettingsError(f"--score {name} compares two models: name the base model's audit with --reference")
    distilled = (scores.about["deciding"]["model"] or {}).get("distilled")
    wanting = [name for name in signals if distilled and "uncond" in SIGNALS[name].needs]
    if wanting:
        raise SettingsError(
            f"--score = '{'+'.join(signals)}': {', '.join(wanting)} could not be measured with this model: "
            f"{distilled}; use loss, or reference_ratio with --reference"
        )
    if null is not None:
        fits(scores, null, "--held-out", same_model=True)
    evidence = _evidence(scores, signals, reference)
    null_evidence = None if null is None else _evidence(null, signals, reference)
    if len(signals) > 1:
        steps = int(scores.about["deciding"]["model"]["num_train_timesteps"])
        base, ts = (evidence, scores.timesteps) if null_evidence is None else (null_evidence, null.timesteps)  # type: ignore[union-attr]
        bins = _Bins(base, ts, distinct_rows(scores if null is None else null), steps)
        evidence = bins.normalise(evidence, scores.timesteps)
        if null is not None and null_evidence is not None:
            null_evidence = bins.normalise(null_evidence, null.timesteps)
    return _mean(evidence), None if null_evidence is None else _mean(null_evidence)


def fits(scores: Scores, other: Scores, option: str, *, same_model: bool) -> None:
    """Refuse two audits whose numbers cannot be put side by side.

    Raises:
        SettingsError: names what differs.
    """
    a, b = scores.about["deciding"], other.about["deciding"]
    if a["model"] is None or b["model"] is None:
        raise SettingsError(f"{option}: an audit without a model (--data-only) has no scores to compare")
    pairs = {name: (a[name], b[name]) for name in ("seed", "strata")}
    pairs["resolution"] = (a["data"]["resolution"], b["data"]["resolution"])
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


def _evidence(scores: Scores, signals: tuple[str, ...], reference: Scores | None) -> list[Array]:
    """Per signal [N, K], higher = more likely memorised."""
    found, several = [], len(signals) > 1
    other = None
    if any(name in WITH_REFERENCE for name in signals):
        assert reference is not None
        fits(scores, reference, "--reference", same_model=False)
        other = _aligned(scores, reference)
    for name in signals:
        if name == "loss":
            loss = scores.draws["loss"]
            found.append(-np.log(np.maximum(loss, TINY)) if several else -loss)
        elif name == "reference_ratio":
            assert other is not None
            ratio = scores.draws["loss"] / np.maximum(other["loss"], TINY)
            found.append(-np.log(np.maximum(ratio, TINY)) if several else 1.0 - ratio)
        elif name == "magnitude_ratio":
            assert other is not None
            ours, theirs = (np.log(np.maximum(m, TINY)) for m in (scores.draws["magnitude"], other["magnitude"]))
            found.append(ours - theirs)
        else:
            value = scores.draws[name]
            found.append(np.log(np.maximum(value, TINY)) if several and name == "magnitude" else value)
    return found


def _aligned(scores: Scores, reference: Scores) -> dict[str, Array]:
    """The reference's draws for each row, found by image and caption; NaN where it lacks the pair or the draw."""
    ids = {
        "a": pa.table({**_identity(scores), "row": np.arange(len(scores))}),
        "b": pa.table({**_identity(reference), "other": np.arange(len(reference))}),
    }
    first = ids["b"].group_by(["sha256", "caption_hash"]).aggregate([("other", "min")])
    joined = ids["a"].join(first, keys=["sha256", "caption_hash"], join_type="inner")
    rows, others = joined["row"].to_numpy(), joined["other_min"].to_numpy()
    width = min(scores.timesteps.shape[1], reference.timesteps.shape[1])
    ours, theirs = scores.timesteps[rows, :width], reference.timesteps[others, :width]
    if np.any((ours != theirs) & ~np.isnan(ours) & ~np.isnan(theirs)):
        raise SettingsError("--reference: the two audits drew other timesteps for the same pair; audit both again")
    found = {}
    for name, values in reference.draws.items():
        found[name] = np.full(scores.draws[name].shape, np.nan)
        found[name][rows[:, None], np.arange(width)] = values[others, :width]
    return found


def _identity(scores: Scores) -> dict[str, pa.ChunkedArray]:
    return {name: scores.table[name] for name in ("sha256", "caption_hash")}


def distinct_rows(scores: Scores) -> Array:
    """One row of each pair, so that a pair that stands there often does not make itself ordinary."""
    contents = scores.table["sha256"].to_pylist()
    rows = {content: row for row, content in enumerate(contents) if content is not None}
    return np.array(list(rows.values()), dtype=int)


class _Bins:
    """Median and robust spread of each signal in each t-bin."""

    def __init__(self, evidence: list[Array], timesteps: Array, rows: Array, steps: int) -> None:
        self.steps = steps
        self.count = int(min(10, max(1, timesteps[rows].size // PER_BIN)))
        where = self._bin(timesteps[rows])
        self.tables: list[list[tuple[float, float]]] = []
        for values in evidence:
            self.tables.append([_spread(values[rows][where == number]) for number in range(self.count)])

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
    total = np.sum(evidence, axis=0)
    known = np.isfinite(total)
    count = known.sum(axis=1)
    mean = np.where(known, total, 0.0).sum(axis=1) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan)
