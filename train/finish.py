"""Checkpoints, and the end of a run."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from accelerate.utils import gather_object

from memsieve.filtering.denoisers.lora import trained_parameters
from memsieve.filtering.files import write_json
from memsieve.train.advice import advice
from memsieve.train.checkpoint import save_checkpoint, saved_steps
from memsieve.train.drawn_pairs import draw_pairs
from memsieve.train.export import export
from memsieve.train.metrics import log_suspects
from memsieve.train.session import Session
from memsieve.train.sieve import as_bytes_tensor
from memsieve.train.validate import known_samples, validate

__all__ = ["finish", "save", "save_what_stands"]


def save(session: Session, keep_all: bool = False) -> None:
    """A checkpoint of everything that the rest of the run depends on, as of the last window that was trained.

    ``keep_all``: older checkpoints stay, however many.
    """
    session.records.ledger.flush(through=session.step)
    extra: dict[str, Any] = {
        "engine": str(session.engine),
        "step": session.step,
        "updates": session.updates,
        "skipped": session.skipped,
        "validated": session.validated,
        "times": session.times[-1000:],
        "data": session.position if session.position is not None else session.loader.state_dict(),
        "schedule": session.schedule.state_dict(),
        "records": session.records.state_dict(),
        "overfits": session.overfits.state_dict(),
        "best": session.best,
    }
    if session.ema is not None:
        extra["ema"] = session.ema.state_dict()
    if session.filter is not None:
        extra["filter"] = session.filter.local_state_dict()
    if session.sieve is not None:
        extra["sieve"] = as_bytes_tensor(session.sieve.records())
    keep = None if keep_all else session.config.checkpoint.keep
    save_checkpoint(session.accelerator, session.config.output, session.step, extra, keep)
    session.saved = session.step


def save_what_stands(session: Session, same_again: bool) -> str:
    """Save the windows before one that failed on all ranks alike, and say where the run goes on; a collective.

    ``same_again``: the weights made it fail, so that from these very weights it fails again, whatever the learning
    rate. They are saved only where full precision may help; else an older checkpoint is the one to go on from.
    """
    saves = not same_again or (_precision_may_rise(session) and _finite(session))
    if saves and session.saved < session.step:
        save(session, keep_all=True)
    session.records.ledger.flush()  # what the failed window had read: a resume removes it, and reads it again
    if same_again:
        return _way_back(session)
    if not session.step:
        return "Nothing was trained yet"
    return f"Then the same command goes on from step {session.step}, on data that has as many rows as before"


def _precision_may_rise(session: Session) -> bool:
    return session.engine.precision != "no" and not session.engine.deepspeed


def _finite(session: Session) -> bool:
    """Whether all trained weights are, on all ranks; a collective."""
    mine = trained_parameters(session.accelerator.unwrap_model(session.model))
    broken = sum(not bool(torch.isfinite(getattr(p, "ds_tensor", p)).all()) for p in mine)
    return session.exchange.sum([broken])[0] == 0


def _way_back(session: Session) -> str:
    may_rise = _precision_may_rise(session)
    if not session.step:
        return f"Nothing was trained yet: it is the model's own{'; try train.mixed_precision: no' if may_rise else ''}"
    here = f"checkpoints/step-{session.step:08d}" if session.saved == session.step else None
    earlier = [step for step in saved_steps(session.config.output) if step < session.step]
    text = f"With a lower optimizer.lr{f', and {here} removed,' if here else ''} the same command "
    text += f"goes on from step {earlier[-1]}" if earlier else "begins anew"
    if here and may_rise:
        text += f"; with train.mixed_precision: no it goes on from step {session.step}"
    return text


def _overfitting(session: Session) -> bool | None:
    """Whether the filter or the looks at held-out pairs found it; None where nothing could tell."""
    assert session.filter is not None
    return True if session.filter.overfitting else session.overfits.overfits


def finish(session: Session) -> dict[str, Any]:
    """Final checkpoint and validation, tables, export, and ``summary.json`` last: it says that the run is complete.

    Raises:
        ExportError: on the main process, where the model cannot be written.
    """
    if session.config.checkpoint.final and session.saved < session.step:
        save(session)
    loss = validate(session)
    draw_pairs(session)
    records, config = session.records, session.config
    records.ledger.flush()
    for other in gather_object([records.accounting.as_dict()])[1:]:
        records.accounting.add(other)
    summary: dict[str, Any] = {
        **records.accounting.as_dict(),
        "steps": session.step,
        "epochs": config.train.epochs,
        "updates": session.updates,
        "skipped_steps": session.skipped,
        "step_seconds_median": statistics.median(session.times) if session.times else None,
        "heldout_loss": loss if loss == loss else None,
        "heldout_groups": len(session.held_out),
        "ranks": session.exchange.world_size,
        "engine": str(session.engine),
        "seed": config.train.seed,
        "ended_early": session.ended or None,
        "use": advice(session),
    }
    if session.filter is not None:
        summary["groups"] = session.filter.n_groups
        summary["condemned_groups"] = len(session.filter.condemned)
        summary["overfitting"] = _overfitting(session)
        if session.recall is not None:
            summary["copies"] = session.recall.rule.copies
        suspects = session.filter.suspects(config.tracking.top_k)
        log_suspects(session, suspects, known_samples(session, [standing.group for standing in suspects]))
    records.write_tables(session.filter, session.exchange)
    if config.checkpoint.export:
        export(session)
    session.accelerator.wait_for_everyone()
    session.tracker.close()
    if session.accelerator.is_main_process:
        write_json(config.output / "summary.json", summary)
    return summary
