"""The fine-tuned model as other programs take it: a pipeline folder, or a LoRA for one, whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from memsieve.filtering.denoisers.lora import trained_parameters
from memsieve.filtering.denoisers.lora_files import export_lora
from memsieve.train.engine import full_weights
from memsieve.train.session import Session

__all__ = ["ExportError", "export", "export_best"]


class ExportError(RuntimeError):
    """The model could not be written. Its training is in the final checkpoint; the message says what to do."""


def export(session: Session) -> None:
    """A plain pipeline folder, or a LoRA for one, whatever the engine: all ranks give their parts, the main process
    writes.

    Raises:
        ExportError: on the main process; nothing is left of what was written, and an earlier export stands.
    """
    _export(session, "lora" if session.config.model.lora is not None else "pipeline", copied=False)


def export_best(session: Session, copied: bool) -> None:
    """Write the model to ``best/`` where it is the best so far; on all ranks alike, at a look.

    The best has the lowest held-out loss, and pairs do not come back yet. Without held-out pairs it is the last one
    before they do.

    Args:
        copied: the model holds the averaged weights already, where there are any.

    Raises:
        ExportError: as ``export``.
    """
    watch, recall = session.overfits, session.recall
    if not session.step or (recall is not None and recall.rule.copies):
        return
    if watch.best_trained is not None and watch.best_trained.step != session.step:
        return
    _export(session, "best", copied)
    session.best = session.step


def _export(session: Session, name: str, copied: bool) -> None:
    main = session.accelerator.is_main_process
    model = session.accelerator.unwrap_model(session.model)
    lora = session.config.model.lora is not None
    weights = None
    if session.engine.deepspeed:
        weights = full_weights(session.engine, model, keep=main)
        if not main:
            return
        if session.ema is not None:
            names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
            weights |= dict(zip(names, session.ema.shadow_params, strict=True))
        if not lora:
            model = type(model).from_config(model.config)
            model.load_state_dict(weights)
    elif session.ema is not None and not copied:
        session.ema.copy_to(trained_parameters(model))
    if main:
        _write_whole(session, session.config.output / name, model, weights)


def _write_whole(session: Session, final: Path, model: Any, weights: dict[str, torch.Tensor] | None) -> None:
    temporary = final.with_name(f"unfinished-{final.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if session.config.model.lora is not None:
            export_lora(session.denoiser, temporary, model, session.config.model.path, weights)
        else:
            session.denoiser.export(temporary, model)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)  # gives its room back
        saved = session.saved == session.step
        raise ExportError(
            f"'{final}' could not be written: {str(error).splitlines()[0][:300]}. "
            + (f"The training is whole in checkpoints/step-{session.step:08d}: " if saved else "")
            + "make room, and the same command "
            + ("writes it, without training again" if saved else "goes on from the last checkpoint")
        ) from error
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
