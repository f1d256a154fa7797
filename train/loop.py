"""The fine-tuning loop: windows in, one optimizer step each, with the filter beside it."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from filtering.data.loader import Window
from train.batches import Batch, build_batch
from train.checkpoint import save_checkpoint
from train.records import write_json
from train.setup import Session
from train.step import WindowResult
from train.validation import held_out_loss, image_grid, probe_magnitude, validation_images

__all__ = ["BadDataError", "fit"]


class BadDataError(RuntimeError):
    """More samples than ``data.max_bad`` could not be used; the message names them."""


def fit(session: Session) -> dict[str, Any]:
    """Train to the end, or until interrupted, and write the run's summary, which is returned.

    Raises:
        BadDataError: on all ranks, where more samples fail than ``data.max_bad`` allows.
        NonFiniteError: on all ranks, where a loss is not finite although its input was.
        KeyboardInterrupt: after a checkpoint was saved, where the user stopped the run.
    """
    config = session.config
    windows = iter(session.loader)
    with _interruptible() as stop, _progress(session) as advance:
        while config.train.epochs is not None or session.step < session.total_steps:
            window = next(windows, None)
            started = time.perf_counter()
            batches = _batches(session, window)
            stopping, exhausted = _agree(session, window, batches, stop.asked)
            if exhausted:
                break
            result = session.trainer.train(batches)
            _calibrate(session)
            _after_window(session, window, batches, result, time.perf_counter() - started)
            advance(result)
            if config.validation.every and session.step % config.validation.every == 0:
                validate(session)
            due = config.checkpoint.every and session.step % config.checkpoint.every == 0
            if due or stopping:
                save(session)
            if stopping:
                session.tracker.close()
                raise KeyboardInterrupt(f"stopped at step {session.step}; run the same command to go on")
    return finish(session)


def _batches(session: Session, window: Window | None) -> list[Batch]:
    """The window's rows as batches on the device."""
    config = session.config
    size = config.train.batch_size
    rows = window.rows if window is not None else [None] * (size * config.train.accumulation)
    return [
        build_batch(
            session.denoiser,
            rows[start : start + size],
            seed=config.train.seed,
            resolution=config.data.resolution,
            caption_dropout=config.train.caption_dropout,
            added_tokens=config.train.random_tokens,
        )
        for start in range(0, len(rows), size)
    ]


def _agree(session: Session, window: Window | None, batches: list[Batch], asked: bool) -> tuple[bool, bool]:
    """What all ranks must do alike: (stop after this window, there is nothing left to train on)."""
    if window is not None:
        session.records.note_unused(session.step + 1, window.failed, window.held_out)
    bad = [visit for batch in batches for visit in batch.bad]
    session.records.note_bad(bad)
    failed = len(session.records.unusable)
    valid = sum(sum(batch.valid) for batch in batches)
    total_failed, total_valid, stops = session.exchange.sum([failed, valid, float(asked)])
    if total_failed > session.config.data.max_bad:
        _too_many_bad(session, window, bad, int(total_failed))
    return stops > 0, total_valid == 0


def _too_many_bad(session: Session, window: Window | None, bad: list[Any], count: int) -> None:
    session.records.ledger.flush()
    mine = [f"{row.shard}:{row.key}: {row.error}" for row in (window.failed if window is not None else [])]
    mine += [f"{visit.shard}:{visit.key}: input is not finite" for visit in bad]
    everyone = gather_object(mine)
    raise BadDataError(
        f"{count} sample(s) cannot be used and data.max_bad is {session.config.data.max_bad}: "
        f"{'; '.join(everyone[:8])}. Repair them, or raise data.max_bad to skip and count them"
    )


def _calibrate(session: Session) -> None:
    """Score the next few held-out pairs, each by a fresh draw, all ranks the same."""
    filter, scorer, rows = session.filter, session.scorer, session.held_out
    if filter is None or scorer is None or filter.config.calibrator == "fixed" or not rows:
        return
    count = min(filter.config.held_out_per_window, len(rows))
    turns = [session.step * count + i for i in range(count)]
    chosen = [rows[turn % len(rows)] for turn in turns]
    batch = build_batch(
        session.denoiser,
        chosen,
        seed=session.config.train.seed,
        resolution=session.config.data.resolution,
        positions=[("calibration", turn // len(rows), turn % len(rows)) for turn in turns],
    )
    deciding = tuple(filter.config.signals)
    with session.accelerator.autocast():
        measurement = scorer.measure(batch, passes=filter.deciding_passes, signals=deciding)
    filter.calibrate([row.group for row in chosen], measurement)


def _after_window(
    session: Session, window: Window | None, batches: list[Batch], result: WindowResult, seconds: float
) -> None:
    session.step += 1
    if result.skipped:
        session.skipped += 1
    else:
        session.updates += 1
        session.schedule.step()
        if session.ema is not None:
            session.ema.step(session.accelerator.unwrap_model(session.model).parameters())
    bad = [visit for batch in batches for visit in batch.bad]
    rows = window.rows if window is not None else []
    session.records.note_window(session.step, rows, bad, result.verdicts)
    if session.filter is not None and session.filter.end_window(note=_warn):
        session.records.note_evidence(session.step, session.filter)
    session.times.append(round(seconds, 4))
    _log(session, result)


def _warn(text: str) -> None:
    Console(stderr=True).print(text, style="yellow", markup=False)


def _log(session: Session, result: WindowResult) -> None:
    step, tracking = session.step, session.config.tracking
    magnitudes = np.array([v.signals["magnitude"] for v in result.verdicts if "magnitude" in v.signals])
    timesteps = np.array([v.timestep for v in result.verdicts if "magnitude" in v.signals])
    if step % tracking.log_every == 0 or step == 1 or step == session.total_steps:
        values = {
            "train/loss": result.loss,
            "train/loss_unfiltered": result.loss_unfiltered,
            "train/lr": float(session.schedule.get_last_lr()[0]),
            "train/grad_norm": result.grad_norm,
            "train/updates": float(session.updates),
            "train/step_seconds": statistics.median(session.times[-tracking.log_every :]),
            "mem/skipped_steps": float(session.skipped),
        }
        if session.filter is not None:
            values |= _filter_values(session, result, magnitudes)
        session.tracker.log({name: value for name, value in values.items() if value == value}, step)
    if session.filter is not None and len(magnitudes) and step % tracking.histogram_every == 0:
        session.tracker.histograms("mem/magnitude", _by_bin(session, magnitudes, timesteps), step)


def _filter_values(session: Session, result: WindowResult, magnitudes: np.ndarray) -> dict[str, float]:
    filter = session.filter
    assert filter is not None
    values = {
        "mem/kept_count": result.kept,
        "mem/dropped_frac": 1.0 - result.kept / max(result.eligible, 1),
        "mem/weight_mean": result.kept / max(result.eligible, 1),
        "mem/condemned_groups": float((filter.groups["condemned_step"] >= 0).sum()),
        "mem/groups_seen": float(len(filter.groups)),
    }
    if np.isfinite(filter.evidence_bar) and filter.config.decide == "group":
        values["mem/threshold"] = filter.evidence_bar
    if len(magnitudes):
        quantiles = np.quantile(magnitudes, [0.5, 0.95, 0.99])
        values |= {"mem/magnitude_mean": float(magnitudes.mean()), "mem/magnitude_max": float(magnitudes.max())}
        values |= {f"mem/magnitude_p{q}": float(v) for q, v in zip((50, 95, 99), quantiles, strict=True)}
    return values


def _by_bin(session: Session, magnitudes: np.ndarray, timesteps: np.ndarray) -> dict[str, np.ndarray]:
    bins = session.config.filter.t_bins
    width = session.denoiser.num_train_timesteps / bins
    index = np.minimum((timesteps / width).astype(int), bins - 1)
    return {
        f"t_{int(b * width):04d}_{int((b + 1) * width):04d}": magnitudes[index == b]
        for b in range(bins)
        if (index == b).any()
    }


def validate(session: Session) -> float:
    """Held-out loss and images, by the averaged weights where there are any; the loss is returned (NaN without)."""
    config = session.config
    model = session.accelerator.unwrap_model(session.model)
    if session.ema is not None:
        session.ema.store(model.parameters())
        session.ema.copy_to(model.parameters())
    loss = float("nan")
    rows = session.held_out[: config.validation.held_out_pairs]
    if rows:
        loss = held_out_loss(
            session.denoiser,
            model,
            rows,
            seed=config.train.seed,
            resolution=config.data.resolution,
            draws=config.validation.held_out_draws,
            batch_size=max(config.train.batch_size, 16),
        )
        session.tracker.log({"val/heldout_loss": loss}, session.step)
    if probes := _probes(session, model):
        session.tracker.log(probes, session.step)
    if config.validation.prompts and session.accelerator.is_main_process:
        images = validation_images(
            session.denoiser,
            model,
            config.validation.prompts,
            seed=config.train.seed,
            steps=config.validation.sampling_steps,
            guidance_scale=config.validation.guidance_scale,
            resolution=config.data.resolution,
        )
        path = config.output / "samples" / f"step-{session.step:06d}.png"
        session.tracker.images("val/samples", image_grid(images, path), session.step)
    if session.ema is not None:
        session.ema.restore(model.parameters())
    return loss


def _probes(session: Session, model: torch.nn.Module) -> dict[str, float]:
    """Magnitude of the validation prompts, and of the captions of the most suspected groups."""
    lists = {"val/probe_magnitude": session.config.validation.prompts}
    if session.filter is not None:
        order = np.argsort(-session.filter.groups["evidence_max"], kind="stable")[:8]
        names = [session.filter.groups.names[row] for row in order]
        known = [session.records.seen[name][2] for name in names if name in session.records.seen]
        lists["val/suspects_magnitude"] = [caption for caption in known if caption]
    options = {"seed": session.config.train.seed, "resolution": session.config.data.resolution}
    return {
        name: probe_magnitude(session.denoiser, model, captions, **options)
        for name, captions in lists.items()
        if captions
    }


def save(session: Session) -> None:
    """A checkpoint of everything that the rest of the run depends on."""
    session.records.ledger.flush()
    extra: dict[str, Any] = {
        "step": session.step,
        "updates": session.updates,
        "skipped": session.skipped,
        "times": session.times[-1000:],
        "data": session.loader.state_dict(),
        "schedule": session.schedule.state_dict(),
        "records": session.records.state_dict(),
    }
    if session.ema is not None:
        extra["ema"] = session.ema.state_dict()
    if session.filter is not None:
        extra["filter"] = session.filter.state_dict()
    save_checkpoint(session.accelerator, session.config.output, session.step, extra, session.config.checkpoint.keep)


def finish(session: Session) -> dict[str, Any]:
    """Final validation, tables, export and ``summary.json``."""
    loss = validate(session)
    records, config = session.records, session.config
    records.ledger.flush()
    for other in gather_object([records.accounting.as_dict()])[1:]:
        records.accounting.add(other)
    summary: dict[str, Any] = {
        **records.accounting.as_dict(),
        "steps": session.step,
        "updates": session.updates,
        "skipped_steps": session.skipped,
        "step_seconds_median": statistics.median(session.times) if session.times else None,
        "heldout_loss": loss if loss == loss else None,
        "heldout_groups": len(session.held_out),
        "ranks": session.exchange.world_size,
        "seed": config.train.seed,
    }
    if session.filter is not None:
        summary["groups"] = len(session.filter.groups)
        summary["condemned_groups"] = int((session.filter.groups["condemned_step"] >= 0).sum())
        summary["overfitting"] = session.filter.overfitting
    if session.accelerator.is_main_process:
        records.write_tables(session.filter)
        write_json(config.output / "summary.json", summary)
        _suspects(session)
        if config.checkpoint.export:
            _export(session)
    session.accelerator.wait_for_everyone()
    session.tracker.close()
    return summary


def _suspects(session: Session) -> None:
    """The table of most suspected groups; captions leave the machine only where the user opted in."""
    if session.filter is None:
        return
    groups = session.filter.groups
    columns = ["group", "exposures", "evidence", "p_value", "condemned_step", "magnitude_mean"]
    columns += ["key", "caption"] if session.config.tracking.log_samples else []
    rows: list[list[Any]] = []
    for row in np.argsort(-groups["evidence_max"], kind="stable")[: session.config.tracking.top_k]:
        name = groups.names[row]
        values: list[Any] = [
            name,
            int(groups["exposures"][row]),
            float(groups["evidence_max"][row]),
            float(groups["p_value"][row]),
            int(groups["condemned_step"][row]),
            float(groups["magnitude_sum"][row] / max(groups["scored"][row], 1)),
        ]
        known = session.records.seen.get(name, ["", "", ""])
        rows.append(values + ([known[0], known[2]] if session.config.tracking.log_samples else []))
    session.tracker.table("mem/top_dropped", columns, rows, session.step)


def _export(session: Session) -> None:
    model = session.accelerator.unwrap_model(session.model)
    if session.ema is not None:
        session.ema.copy_to(model.parameters())
    session.denoiser.export(session.config.output / "pipeline", model)


class _Stop:
    asked = False


@contextmanager
def _interruptible() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM ask for a stop at the end of the window; a second Ctrl-C stops at once."""
    stop = _Stop()

    def ask(number: int, frame: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt("stopped at once; the last checkpoint stands")
        stop.asked = True
        Console(stderr=True).print("[yellow]stopping after this step, with a checkpoint; Ctrl-C again stops at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(session: Session) -> Iterator[Any]:
    """A bar with rate and ETA on the main process; ``advance(result)`` moves it."""
    columns = [
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not session.accelerator.is_main_process) as progress:
        task = progress.add_task("training", total=session.total_steps, completed=session.step, note="")

        def advance(result: WindowResult) -> None:
            condemned = int((session.filter.groups["condemned_step"] >= 0).sum()) if session.filter else 0
            rate = result.eligible / max(session.times[-1], 1e-6)
            note = f"loss {result.loss:.4f}  {rate:.0f} samples/s"
            progress.update(task, completed=session.step, note=note + (f"  {condemned} condemned" if condemned else ""))

        yield advance
