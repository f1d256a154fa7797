"""What a run says of itself while it trains: scalars, histograms per t-bin, the table of suspects."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from memsieve.filtering.evidence.calibration import T_BINS
from memsieve.filtering.evidence.sharing import Standing
from memsieve.filtering.filter import MemorizationFilter
from memsieve.train.session import Session
from memsieve.train.step import WindowResult

__all__ = ["log_suspects", "log_sweep", "log_window"]


def log_window(session: Session, result: WindowResult) -> None:
    """What a window came to, as often as ``tracking`` asks; the magnitude and what decides by t as histograms."""
    step, tracking = session.step, session.config.tracking
    if step % tracking.log_every == 0 or step == 1 or step == session.total_steps:
        values = {
            "train/loss": result.loss,
            "train/loss_unfiltered": result.loss_unfiltered,
            "train/prior_loss": result.prior_loss,
            "train/lr": float(session.schedule.get_last_lr()[0]),
            "train/grad_norm": result.grad_norm,
            "train/updates": float(session.updates),
            "train/step_seconds": statistics.median(session.times[-tracking.log_every :]),
            "mem/skipped_steps": float(session.skipped),
        }
        if session.filter is not None:
            values |= _filter_values(session, result)
        session.tracker.log({name: value for name, value in values.items() if value == value}, step)
    if session.filter is not None and step % tracking.histogram_every == 0:
        for name, (readings, timesteps) in _readings(session.filter, result).items():
            session.tracker.histograms(f"mem/{name}", _by_bin(session, readings, timesteps), step)


def _readings(pair_filter: MemorizationFilter, result: WindowResult) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Of the paper's magnitude and of each signal that decides: (values [n], timesteps [n]), where there are any."""
    found: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in dict.fromkeys(["magnitude", *pair_filter.config.signals]):
        pairs = [(v.signals[name], v.timestep) for v in result.verdicts if name in v.signals]
        if pairs:
            values, timesteps = zip(*pairs, strict=True)
            found[name] = (np.array(values), np.array(timesteps))
    return found


def log_sweep(session: Session) -> None:
    """What a sweep over the held-out pairs found, at the window that ended it: a resumed run has it from no other."""
    assert session.filter is not None
    if session.filter.held_out.ready:
        session.tracker.log({"mem/spared": session.filter.rule.spared}, session.step)


def _filter_values(session: Session, result: WindowResult) -> dict[str, float]:
    pair_filter = session.filter
    assert pair_filter is not None
    values = {
        "mem/kept_count": result.kept,
        "mem/dropped_frac": 1.0 - result.kept / max(result.eligible, 1),
        "mem/weight_mean": result.kept / max(result.eligible, 1),
        "mem/condemned_groups": float(len(pair_filter.condemned)),
        "mem/groups_seen": float(pair_filter.n_groups),
    }
    if np.isfinite(pair_filter.evidence_bar) and pair_filter.config.rule == "evidence":
        values["mem/threshold"] = pair_filter.evidence_bar
    for name, (readings, _) in _readings(pair_filter, result).items():
        quantiles = np.quantile(readings, [0.5, 0.95, 0.99])
        values |= {f"mem/{name}_mean": float(readings.mean()), f"mem/{name}_max": float(readings.max())}
        values |= {f"mem/{name}_p{q}": float(v) for q, v in zip((50, 95, 99), quantiles, strict=True)}
    return values


def _by_bin(session: Session, readings: np.ndarray, timesteps: np.ndarray) -> dict[str, np.ndarray]:
    bins = T_BINS
    width = session.denoiser.num_train_timesteps / bins
    index = np.minimum((timesteps / width).astype(int), bins - 1)
    return {
        f"t_{int(b * width):04d}_{int((b + 1) * width):04d}": readings[index == b]
        for b in range(bins)
        if (index == b).any()
    }


def log_suspects(session: Session, suspects: list[Standing], known: dict[str, list[str]]) -> None:
    """The table of most suspected groups; captions leave the machine only where the user opted in.

    ``known``: group -> key, shard, caption of a sample of it.
    """
    columns = ["group", "exposures", "evidence", "p_value", "condemned_step", "magnitude_mean"]
    columns += ["key", "caption"] if session.config.tracking.log_samples else []
    rows: list[list[Any]] = []
    for group in suspects:
        values: list[Any] = [
            group.group,
            group.exposures,
            group.evidence_max,
            group.p_value,
            group.condemned_step,
            group.magnitude_mean,
        ]
        key, _, caption = known.get(group.group, ["", "", ""])
        rows.append(values + ([key, caption] if session.config.tracking.log_samples else []))
    session.tracker.table("mem/top_dropped", columns, rows, session.step)
