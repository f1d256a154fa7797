"""Validation: held-out loss, probes of suspects, and drawings of prompts and suspects, by the averaged weights."""

from __future__ import annotations

import numpy as np
import torch
from accelerate.utils import gather_object
from PIL import Image

from memsieve.filtering.denoisers.lora import trained_parameters
from memsieve.filtering.evidence.sharing import Standing
from memsieve.train.copies import as_tensor
from memsieve.train.look import look
from memsieve.train.probes import image_grid, probe_magnitude, validation_images
from memsieve.train.session import Session

__all__ = ["known_samples", "validate"]


def validate(session: Session) -> float:
    """Held-out loss and images, by the averaged weights where there are any; the loss is returned (NaN without)."""
    session.validated = session.step
    model = session.accelerator.unwrap_model(session.model)
    if session.ema is not None:
        session.ema.store(trained_parameters(model))
        session.ema.copy_to(trained_parameters(model))
    loss = look(session, model)
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
        known = known_samples(session, suspects)
        lists["val/suspects_magnitude"] = [known[name][2] for name in suspects if name in known and known[name][2]]
    options = {"seed": session.config.train.seed, "resolution": session.config.data.resolution}
    return {
        name: probe_magnitude(session.denoiser, model, captions, **options)
        for name, captions in lists.items()
        if captions
    }


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


def known_samples(session: Session, groups: list[str]) -> dict[str, list[str]]:
    """Group -> key, shard, caption of a sample, from whichever rank has read one: the same on all ranks; a collective.

    Under ZeRO-3 ranks that knew different captions would run different numbers of forwards, and wait for ever.
    """
    mine = session.records.known(groups)
    known: dict[str, list[str]] = {}
    for theirs in gather_object([mine]):
        known = {**theirs, **known}
    return known
