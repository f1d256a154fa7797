"""Pipeline class -> adapter. A new family is one file beside this one, and one line here."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any, Final

import torch
from packaging.version import Version

from memsieve.filtering.denoisers.hub import pipeline_folder, read_index
from memsieve.filtering.denoisers.lora_files import base_of, fuse_lora
from memsieve.filtering.denoisers.model_files import JOINED, named_file
from memsieve.filtering.denoisers.parts import Dtypes
from memsieve.filtering.denoisers.quantize import check_quantize
from memsieve.filtering.denoisers.single_file import config_folder

__all__ = ["DTYPES", "FAMILIES", "check_drawn", "denoiser_of", "family_of", "open_as", "open_denoiser"]

FAMILIES: Final[dict[str, tuple[str, str]]] = {
    "StableDiffusionPipeline": ("memsieve.filtering.denoisers.stable_diffusion", "StableDiffusionDenoiser"),
    "StableDiffusionXLPipeline": ("memsieve.filtering.denoisers.stable_diffusion_xl", "StableDiffusionXLDenoiser"),
    "StableDiffusion3Pipeline": ("memsieve.filtering.denoisers.stable_diffusion_3", "StableDiffusion3Denoiser"),
    "FluxPipeline": ("memsieve.filtering.denoisers.flux", "FluxDenoiser"),
    "PixArtSigmaPipeline": ("memsieve.filtering.denoisers.pixart", "PixArtSigmaDenoiser"),
    "SanaPipeline": ("memsieve.filtering.denoisers.sana", "SanaDenoiser"),
    "Lumina2Pipeline": ("memsieve.filtering.denoisers.lumina_2", "Lumina2Denoiser"),
    "QwenImagePipeline": ("memsieve.filtering.denoisers.qwen_image", "QwenImageDenoiser"),
    "ZImagePipeline": ("memsieve.filtering.denoisers.z_image", "ZImageDenoiser"),
    "Flux2Pipeline": ("memsieve.filtering.denoisers.flux_2", "Flux2Denoiser"),
    "Flux2KleinPipeline": ("memsieve.filtering.denoisers.flux_2_klein", "Flux2KleinDenoiser"),
}
"""Pipeline class -> module and class of its adapter, imported when first asked for."""
RECENT: Final = tuple(FAMILIES)[tuple(FAMILIES).index("SanaPipeline") :]
RECENT_DIFFUSERS: Final = "0.37"
"""Has Flux.2 klein, and the others' networks called as they are called here; the older families need less."""
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""As settings name them."""


def open_denoiser(
    path: str,
    prediction_type: str | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    model_dtype: torch.dtype = torch.float32,
    text_dtype: torch.dtype | None = None,
    option: str = "model.path",
    fuse: bool = True,
) -> Any:
    """The adapter of the pipeline at ``path``, its family told by model_index.json.

    Args:
        path: a diffusers pipeline folder, or a hub id; a checkpoint in one file (``CHECKPOINT.safetensors``, with the
            folder or hub id of its configs behind ``::`` where diffusers cannot tell it); or a LoRA, a folder or a file
            (``LORA.safetensors::BASE``), which is then added to the weights of its base model.
        prediction_type: overrides the scheduler's own.
        dtype: of the frozen parts.
        model_dtype: of the denoising network.
        text_dtype: of the text encoders, where it is another.
        option: named in messages.
        fuse: whether a LoRA is added to the weights; else it stays an adapter, which can be switched off.

    Raises:
        ValueError: not there, gated, incomplete, or of a family that is not known; the message says what to do.
    """
    return open_as(path, Dtypes(model_dtype, dtype, text_dtype or dtype), prediction_type, option, fuse=fuse)


def open_as(
    path: str, dtypes: Dtypes, prediction_type: str | None = None, option: str = "model.path", *, fuse: bool = True
) -> Any:
    """As ``open_denoiser``, with frozen weights in fewer bits where ``dtypes`` says so.

    Raises:
        ValueError: as there; or a LoRA was to be added to weights in fewer bits, which would round it.
    """
    base = base_of(str(path), option)
    if base is not None:
        if dtypes.quantize is not None and dtypes.quantize.network is not None:
            raise ValueError(
                f"model.quantize: {dtypes.quantize.network}: '{path}' is a LoRA, which would be rounded where it is "
                "added to such weights; write the two as one pipeline first, or leave it out"
            )
        denoiser = open_as(base, dtypes, prediction_type, option)
        fuse_lora(denoiser.pipeline(), str(path), option, fuse=fuse)
        return denoiser
    if dtypes.quantize is not None:
        check_quantize(dtypes.quantize)
    file = named_file(str(path), option)
    folder = pipeline_folder(str(path), option) if file is None else config_folder(file, option)
    family = _family(str(read_index(folder, option).get("_class_name", "")), str(path), option)
    return family(str(folder) if file is None else f"{file.path}{JOINED}{folder}", prediction_type, dtypes, option)


def denoiser_of(pipe: Any, option: str = "--model") -> Any:
    """The adapter of a pipeline in memory, its parts shared.

    Raises:
        ValueError: its family is not known, or it is not made as the family's are.
    """
    return _family(type(pipe).__name__, "the pipeline", option).from_pipeline(pipe, option)


def family_of(pipe: Any) -> Any:
    """The adapter's class of a pipeline in memory; None where its family is not known."""
    name = type(pipe).__name__
    return _family(name, "the pipeline", "--model") if name in FAMILIES else None


def check_drawn(pipe: Any, option: str = "--model") -> None:
    """Refuse a pipeline in memory, of a family known here, whose network is no text-to-image model's.

    Raises:
        ValueError: says what such a network is.
    """
    if type(pipe).__name__ in FAMILIES:
        _family(type(pipe).__name__, "the pipeline", option).check_pipeline(pipe, option)


def _family(name: str, what: str, option: str) -> Any:
    if name not in FAMILIES:
        raise ValueError(
            f"{option}: '{what}' is a {name or 'pipeline of no named class'}, a family that is not known here; known: "
            f"{', '.join(FAMILIES)} (docs/adding-a-model.md shows how to add one)"
        )
    installed = version("diffusers")
    if name in RECENT and Version(installed) < Version(RECENT_DIFFUSERS):
        raise ValueError(
            f"{option}: '{what}' is a {name}, which needs diffusers {RECENT_DIFFUSERS} or later, and {installed} is "
            "installed here: pip install -U diffusers"
        )
    module, kind = FAMILIES[name]
    return getattr(import_module(module), kind)
