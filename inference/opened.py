"""A finished model, opened for measuring, with the model before fine-tuning beside it where that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from memsieve.filtering.denoisers.base import Denoiser
from memsieve.filtering.denoisers.lora import AdapterOff
from memsieve.filtering.denoisers.lora_files import adapts_text, base_of, with_base
from memsieve.filtering.denoisers.quantize import precision_of
from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from memsieve.inference.base import open_base
from memsieve.inference.guided import GuidedModel

__all__ = ["open_model"]


@torch.inference_mode(False)  # weights that are loaded here may be needed for gradients
def open_model(
    model: Any,
    *,
    scheduler: str = "auto",
    device: str | None = None,
    dtype: torch.dtype | None = None,
    base: Any = None,
) -> GuidedModel:
    """A pipeline folder, a file of weights, a hub id, or a diffusers pipeline in memory, opened for measuring.

    A pipeline in memory is used as it stands: its parts are shared.

    Args:
        base: the model before fine-tuning, as ``model``; of a LoRA on it, it is the LoRA switched off, which takes no
            memory, unless text encoders are adapted too.

    Raises:
        ValueError: no such folder, a part is missing, guidance is distilled into the model, an unknown family, or a
            base that does not fit. Beside a base a guidance-distilled model is opened too: the drift needs no
            unconditional prediction.
    """
    if isinstance(model, GuidedModel):
        return model
    if not isinstance(model, (str, Path)):
        shared = denoiser_of(model)
        if base is None:
            _refuse_distilled(type(model).__name__, shared)
        kind = dtype or precision_of(shared.model)
        beside = None if base is None else open_base(base, shared, shared.model, kind)
        return GuidedModel(shared, model, scheduler, beside)
    kind = dtype or torch.float32
    named = with_base(str(model), str(base) if isinstance(base, (str, Path)) else None, "--model")
    adapts = base_of(named, "--model")
    switched = base is not None and adapts is not None and str(base) == adapts and not adapts_text(named, "--model")
    denoiser = open_denoiser(named, dtype=kind, model_dtype=kind, option="--model", fuse=not switched)
    if base is None:
        _refuse_distilled(str(model), denoiser)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    denoiser.to(place)
    denoiser.model.to(place)
    denoiser.model.requires_grad_(False).eval()
    if base is not None:
        base = open_base(AdapterOff(denoiser.model) if switched else base, denoiser, denoiser.model, kind)
    return GuidedModel(denoiser, denoiser.pipeline(), scheduler, base)


def _refuse_distilled(what: str, denoiser: Denoiser) -> None:
    if denoiser.distilled is not None:
        raise ValueError(
            f"--model: '{what}' is guidance-distilled: {denoiser.distilled}. So the magnitude, and with it detect, "
            "explain, minimize, the guard and the attack, cannot work; verify, and probe without --attack, which look "
            "at images, can, as can training on reference_residual and audits on loss and reference_ratio. Beside the "
            "model before fine-tuning, named with --base, detect, explain and minimize compare conditional predictions "
            "alone, and work"
        )
