"""The fine-tuning loop: windows in, one optimizer step each, with the filter beside it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

from accelerate.utils import gather_object
from rich.console import Console

from memsieve.filtering.data.loader import NoUsableRowError, Window
from memsieve.filtering.data.loader_sieve import DELAY
from memsieve.filtering.denoisers.lora import trained_parameters
from memsieve.train.batch import Batch, build_batches
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.finish import finish, save, save_what_stands
from memsieve.train.look import look_at_the_base, look_every
from memsieve.train.metrics import log_sweep, log_window
from memsieve.train.progress import progress_bar
from memsieve.train.session import Session
from memsieve.train.step import NonFiniteError, WindowResult
from memsieve.train.stop import Stop, interruptible
from memsieve.train.validate import validate
from memsieve.train.visits import draw_window

__all__ = ["BadDataError", "Stop", "fit", "train_window", "window_batches"]


class BadDataError(RuntimeError):
    """More samples than ``data.max_bad`` could not be used, or all of them; the message names them."""


def fit(session: Session) -> dict[str, Any]:
    """Train to the end, or until interrupted, and write the run's summary, which is returned.

    Raises:
        BadDataError: on all ranks, after a checkpoint was saved, where more samples fail than ``data.max_bad`` allows,
            or a whole pass gives nothing to train on.
        NonFiniteError: on all ranks, after a checkpoint was saved, where a loss is not finite although its input was.
        ExportError: the finished model cannot be written.
        RankFailure: another rank failed.
        KeyboardInterrupt: after a checkpoint was saved, where the user stopped the run.
    """
    with session.watch.guard(BadDataError, NonFiniteError):
        summary = _fit(session)
    session.watch.close()
    return summary


def _fit(session: Session) -> dict[str, Any]:
    config, accelerator = session.config, session.accelerator
    if accelerator.is_main_process:
        (config.output / "summary.json").unlink(missing_ok=True)  # of the run that this one makes longer
    windows = iter(session.loader)
    session.position = session.loader.state_dict()
    launched = session.exchange.world_size > 1
    with interruptible(launched, accelerator.is_local_main_process) as stop, progress_bar(session) as advance:
        _look_at_the_base(session)
        if session.validated < session.step:
            _validate_if_due(session)  # a stop came first
        over = session.step > 0 and _retired(session)  # a run that is complete, and is asked again
        while not over and (config.train.epochs is not None or session.step < session.total_steps):
            result, stopping = _train_or_save(session, windows, stop)
            if result is not None:
                session.position = session.loader.state_dict()
                advance(result)
            stopping = stopping or _asked(session, stop)
            if result is not None and not stopping and _validate_if_due(session):
                stopping = _asked(session, stop)
            due = config.checkpoint.every and session.step % config.checkpoint.every == 0
            if (due or stopping) and session.saved < session.step:
                _save(session, stop)
            if stopping:
                session.tracker.close()
                raise KeyboardInterrupt(f"stopped at step {session.step}; run the same command to go on")
            if result is None or _retired(session):
                break
    session.watch.enter("finishing", session.step)
    return finish(session)


def _train_or_save(session: Session, windows: Iterator[Window], stop: Stop) -> tuple[WindowResult | None, bool]:
    """As ``train_window``; where that fails on all ranks alike, the windows before it are saved first."""
    try:
        return train_window(session, windows, stop)
    except (BadDataError, NonFiniteError) as error:
        session.watch.enter("saving", session.step)
        said = save_what_stands(session, same_again=isinstance(error, NonFiniteError))
        raise type(error)(f"{error}. {said}") from error


def _retired(session: Session) -> bool:
    """Whether too few pairs are still trained on for the run to go on; the same on all ranks."""
    options = session.config.filter
    if session.recall is None or options.policy != "retire":
        return False
    rule = session.recall.rule
    if rule.share_trained >= options.retire_until:
        return False
    session.ended = (
        f"{len(rule.condemned)} of {len(rule.evidence.groups)} pairs have retired, and fewer than "
        f"filter.retire_until: {options.retire_until:g} are still trained on"
    )
    if session.accelerator.is_main_process:
        _warn(f"ended at step {session.step}: {session.ended}")
    return True


def _asked(session: Session, stop: Stop) -> bool:
    """Whether any rank was asked to stop; a collective."""
    return session.exchange.sum([float(stop.asked)])[0] > 0


def _validate_if_due(session: Session) -> bool:
    every = look_every(session)
    if not every or session.step % every:
        return False
    session.watch.enter("validating", session.step)
    validate(session)
    return True


def _save(session: Session, stop: Stop) -> None:
    session.watch.enter("saving", session.step)
    started = time.perf_counter()
    save(session)
    window = statistics.median(session.times[-20:]) if session.times else 0.0
    warning = stop.too_slow(window, time.perf_counter() - started)
    if warning and session.accelerator.is_local_main_process:
        _warn(warning)


def train_window(
    session: Session, windows: Iterator[Window], stop: Stop | None = None
) -> tuple[WindowResult | None, bool]:
    """Read, train on and close the next window: (what it did, None where the data has ended; whether all ranks are to
    stop after it)."""
    watch = session.watch
    watch.enter("reading data", session.step + 1)
    window = _next(session, windows)
    started = time.perf_counter()
    batches = window_batches(session, window) if not window.ended else []
    if session.prior is not None:
        batches = session.prior.beside(session.denoiser, batches, session.step)
    watch.enter("agreeing on the window", session.step + 1)
    stopping = _agree(session, window, batches, stop is not None and stop.asked)
    if window.ended:
        session.ended = window.why
        if window.why and session.accelerator.is_main_process:
            _warn(f"ended at step {session.step}: {window.why}")
        return None, stopping
    watch.enter("training", session.step + 1)
    result = session.trainer.train(batches)
    watch.enter("closing the window", session.step + 1)
    _calibrate(session)
    _ask(session)
    _after_window(session, window, batches, result, time.perf_counter() - started)
    return result, stopping


def _next(session: Session, windows: Iterator[Window]) -> Window:
    try:
        return next(windows)
    except NoUsableRowError as error:
        if not session.step:
            raise
        raise BadDataError(str(error)) from error  # the data was there, and has gone: what was trained is saved


def window_batches(session: Session, window: Window) -> list[Batch]:
    """The window's rows as batches on the device; opens the filter's window, a collective."""
    size, settings = session.config.train.batch_size, DrawSettings.of(session.config)
    visits, plan = draw_window(
        session.denoiser, window.rows, settings, size, session.filter, session.looked_up, window.shape
    )
    settled = None if session.filter is None else session.filter.settled([visit.sample.visit for visit in visits])
    return build_batches(session.denoiser, visits, plan, size, settled)


def _agree(session: Session, window: Window, batches: list[Batch], asked: bool) -> bool:
    """Note what was read and cannot be used; whether all ranks are to stop after this window.

    Raises:
        BadDataError: on all ranks, where that is too much.
    """
    session.records.note_unused(session.step + 1, window.failed, window.held_out, window.not_kept)
    session.records.note_skipped(session.step + 1, window.skipped)
    bad = [visit for batch in batches for visit in batch.bad]
    session.records.note_bad(bad)
    new, stops = session.exchange.sum([session.records.newly_unusable, float(asked)])
    if new:
        session.records.share_unusable(session.exchange)
    total_failed = len(session.records.unusable)
    if total_failed > session.config.data.max_bad:
        _too_many_bad(session, window, bad, total_failed)
    return stops > 0


def _too_many_bad(session: Session, window: Window, bad: list[Any], count: int) -> None:
    mine = [f"{row.shard}:{row.key}: {row.error}" for row in window.failed]
    mine += [f"{visit.shard}:{visit.key}: input is not finite" for visit in bad]
    everyone = gather_object(mine)
    raise BadDataError(
        f"{count} sample(s) cannot be used and data.max_bad is {session.config.data.max_bad}: "
        f"{'; '.join(everyone[:8])}. Repair them, or raise data.max_bad to skip and count them"
    )


def _calibrate(session: Session) -> None:
    """Score the held-out pairs whose turn it is."""
    if session.turns is not None and session.scorer is not None:
        with session.accelerator.autocast():
            session.turns.score(session.step, session.scorer)


def _look_at_the_base(session: Session) -> None:
    """What the model draws before its first step, where drawings decide, and its losses; a resumed run knows."""
    if session.step:
        return
    if session.recall is not None:
        session.watch.enter("drawing by the base", session.step)
        with session.accelerator.autocast():
            session.recall.begin()
    session.watch.enter("validating", session.step)
    look_at_the_base(session)


def _ask(session: Session) -> None:
    """Draw the captions whose turn it is."""
    if session.recall is not None and session.recall.due(session.step + 1):
        session.watch.enter("drawing training captions", session.step + 1)
        with session.accelerator.autocast():
            session.recall.turn(session.step + 1)


def _after_window(session: Session, window: Window, batches: list[Batch], result: WindowResult, seconds: float) -> None:
    session.step += 1
    if result.skipped:
        session.skipped += 1
    else:
        session.updates += 1
        session.schedule.step()
        if session.ema is not None:
            session.ema.step(trained_parameters(session.accelerator.unwrap_model(session.model)))
    bad = [visit for batch in batches for visit in batch.bad]
    session.records.note_window(session.step, window.rows, bad, result.verdicts)
    if session.filter is not None and session.filter.end_window(note=_warn):
        session.records.note_evidence(session.step, session.filter)
        log_sweep(session)
    if session.filter is not None and session.sieve is not None:
        session.sieve.append(session.filter.rule.latest, session.loader.ticks + DELAY)
    session.times.append(round(seconds, 4))
    log_window(session, result)


def _warn(text: str) -> None:
    Console(stderr=True, emoji=False).print(text, style="yellow", markup=False, soft_wrap=True)
