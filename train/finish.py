"""Validation, checkpoints, and the end of a run."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image

from memsieve.filtering.denoisers.lora import trained_parameters
from memsieve.filtering.evidence.sharing import Standing
from memsieve.filtering.files import write_json
from memsieve.train.checkpoint import save_checkpoint, saved_steps
from memsieve.train.copies import as_tensor
from memsieve.train.export import export
from memsieve.train.metrics import log_suspects
from memsieve.train.session import Session
from memsieve.train.sieve import as_bytes_tensor
from memsieve.train.validate import held_out_loss, image_grid, probe_magnitude, validation_images

__all__ = ["finish", "save", "save_what_stands", "validate"]


def validate(session: Session) -> float:
    """Held-out loss and images, by the averaged weights where there are any; the loss is returned (NaN without)."""
    config = session.config
    session.validated = session.step
    model = session.accelerator.unwrap_model(session.model)
    if session.ema is not None:
        session.ema.store(trained_parameters(model))
        session.ema.copy_to(trained_parameters(model))
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
    suspects = _copy_suspects(session)
    if session.accelerator.is_main_process or session.engine.sharded:  # sharded: every forward needs all ranks
        _draw_prompts(session, model)
        _draw_suspects(session, model, suspects)
    if session.ema is not None:
        session.ema.restore(trained_parameters(model))
    return loss


def _probes(session: Session, model: torch.nn.Module) -> dict[str, float]:
    """Magnitude of the validation prompts, and of the captions of the most suspected groups, where a model has one."""
    if session.denoiser.distilled is not None:
        return {}
    lists = {"val/probe_magnitude": session.config.validation.prompts}
    if session.filter is not None:
        suspects = [standing.group for standing in session.filter.suspects(8)]
        known = _known(session, suspects)
        lists["val/suspects_magnitude"] = [known[name][2] for name in suspects if name in known and known[name][2]]
    options = {"seed": session.config.train.seed, "resolution": session.config.data.resolution}
    return {
        name: probe_magnitude(session.denoiser, model, captions, **options)
        for name, captions in lists.items()
        if captions
    }


def _known(session: Session, groups: list[str]) -> dict[str, list[str]]:
    """Group -> key, shard, caption of a sample, from whichever rank has read one: the same on all ranks; a collective.

    Under ZeRO-3 ranks that knew different captions would run different numbers of forwards, and wait for ever.
    """
    mine = session.records.seen.find(groups)
    known: dict[str, list[str]] = {}
    for theirs in gather_object([mine]):
        known = {**theirs, **known}
    return known


def _copy_suspects(session: Session) -> list[Standing]:
    """The groups that may be drawn, most suspected first; a collective."""
    if session.copies is None or session.filter is None:
        return []
    return session.filter.suspects(session.copies.bank_size)


def _draw_prompts(session: Session, model: torch.nn.Module) -> None:
    """The validation prompts, as a picture and as a copy rate."""
    if not session.config.validation.prompts:
        return
    images = _drawn(session, model, session.config.validation.prompts)
    if not session.accelerator.is_main_process:
        return
    path = session.config.output / "samples" / f"step-{session.step:06d}.png"
    session.tracker.images("val/samples", image_grid(images, path), session.step)
    if session.copies is not None:
        session.tracker.log({"val/probe_copy_rate": session.copies.prompts_rate(as_tensor(images))}, session.step)


def _draw_suspects(session: Session, model: torch.nn.Module, suspects: list[Standing]) -> None:
    """Whether the most suspected groups come back as their training image."""
    if session.copies is None or not suspects:
        return
    evidence, exposures = (np.array([getattr(s, name) for s in suspects]) for name in ("evidence_max", "exposures"))
    chosen = session.copies.suspects([standing.group for standing in suspects], evidence, exposures)
    pairs = [pair for pair in chosen for _ in range(session.config.validation.copy_images)]
    if not pairs:
        return
    images = _drawn(session, model, [caption for _, caption in pairs])
    if not session.accelerator.is_main_process:
        return
    rate = session.copies.suspects_rate(as_tensor(images), [group for group, _ in pairs])
    path = session.config.output / "suspects" / f"step-{session.step:06d}.png"
    image_grid(images, path)
    if session.config.tracking.log_samples:
        session.tracker.images("val/suspects", path, session.step)
    session.tracker.log({"val/suspects_copy_rate": rate}, session.step)


def _drawn(session: Session, model: torch.nn.Module, prompts: list[str]) -> list[Image.Image]:
    options = session.config.validation
    return validation_images(
        session.denoiser,
        model,
        prompts,
        seed=session.config.train.seed,
        steps=options.sampling_steps,
        guidance_scale=options.guidance_scale,
        resolution=session.config.data.resolution,
    )


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


def finish(session: Session) -> dict[str, Any]:
    """Final checkpoint and validation, tables, export, and ``summary.json`` last: it says that the run is complete.

    Raises:
        ExportError: on the main process, where the model cannot be written.
    """
    if session.config.checkpoint.final and session.saved < session.step:
        save(session)
    loss = validate(session)
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
    }
    if session.filter is not None:
        summary["groups"] = session.filter.n_groups
        summary["condemned_groups"] = len(session.filter.condemned)
        summary["overfitting"] = session.filter.overfitting
        suspects = session.filter.suspects(config.tracking.top_k)
        log_suspects(session, suspects, _known(session, [standing.group for standing in suspects]))
    records.write_tables(session.filter, session.exchange)
    if config.checkpoint.export:
        export(session)
    session.accelerator.wait_for_everyone()
    session.tracker.close()
    if session.accelerator.is_main_process:
        write_json(config.output / "summary.json", summary)
    return summary
