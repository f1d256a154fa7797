"""The parts of a pipeline folder, loaded one by one: weights as safetensors only, nothing but what a family names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

__all__ = ["NETWORKS", "Dtypes", "load_part", "load_parts", "own_scheduler", "scheduler_config"]

NETWORKS: Final = ("unet", "transformer")
"""What pipelines call the denoising network."""


class Dtypes(NamedTuple):
    """Of the denoising network, the VAE and the text encoders."""

    network: torch.dtype
    vae: torch.dtype
    text: torch.dtype

    def of(self, part: str) -> torch.dtype:
        """The dtype of a part, by its name in the pipeline."""
        if part in NETWORKS:
            return self.network
        return self.text if part.startswith("text_encoder") else self.vae


def load_parts(
    kinds: dict[str, Any], optional: tuple[str, ...], folder: str, index: dict[str, Any], dtypes: Dtypes
) -> dict[str, Any]:
    """Every part of ``kinds``, frozen but for the denoising network; None where an ``optional`` one is not there.

    Args:
        index: the folder's model_index.json.

    Raises:
        ValueError: a part is missing or cannot be loaded; the message names it.
    """
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        absent = name in optional and not (index.get(name) or [None])[0]
        found[name] = None if absent else load_part(kind, folder, name, dtypes.of(name))
        if isinstance(found[name], torch.nn.Module) and name not in NETWORKS:
            found[name].requires_grad_(False).eval()
    return found


def scheduler_config(folder: str) -> dict[str, Any]:
    """The scheduler's config, of whatever class.

    Raises:
        ValueError: it is not there.
    """
    file = Path(folder) / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        raise ValueError(f"model.path: '{folder}' has no scheduler/ folder; name a complete diffusers pipeline")
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return config


def own_scheduler(config: dict[str, Any], prediction_type: str | None) -> Any:
    """The scheduler that a pipeline samples with, by the class that its config names; None where diffusers has none."""
    import diffusers

    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        return None
    scheduler: Any = kind.from_config(config)  # type: ignore[attr-defined]
    if prediction_type is not None and "prediction_type" in scheduler.config:
        scheduler.register_to_config(prediction_type=prediction_type)
    return scheduler


def load_part(kind: Any, folder: str, name: str, dtype: torch.dtype) -> Any:
    """One part of a pipeline folder, weights as safetensors only.

    Raises:
        ValueError: it is not there, or cannot be loaded.
    """
    if not (Path(folder) / name).is_dir():
        raise ValueError(f"model.path: '{folder}' has no {name}/ folder; name a complete diffusers pipeline folder")
    options: dict[str, Any] = {}
    if issubclass(kind, torch.nn.Module):
        # transformers calls it dtype, diffusers torch_dtype
        word = "dtype" if name.startswith("text_encoder") else "torch_dtype"
        options = {word: dtype, "use_safetensors": True}
    try:
        return kind.from_pretrained(folder, subfolder=name, **options)
    except ImportError as error:
        raise ValueError(
            f"model.path: the {name} of '{folder}' needs a package that is not installed "
            f"({str(error).strip().splitlines()[0]}); for T5 tokenizers: pip install 'memsieve[t5]'"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(
            f"model.path: cannot load the {name} of '{folder}': {str(error).splitlines()[0]}. Name a local diffusers "
            "pipeline folder, or a hub id that this machine can reach"
        ) from error
