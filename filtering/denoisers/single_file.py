"""A checkpoint in one ``.safetensors`` file, as ComfyUI and A1111 take it, read by diffusers' own converters.

The file has weights alone: configs and tokenizers come from a pipeline folder, and so do parts that it lacks.
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from memsieve.filtering.denoisers.hub import INDEX, config_snapshot, read_index
from memsieve.filtering.denoisers.model_files import JOINED, NamedFile
from memsieve.filtering.denoisers.parts import NETWORKS, Dtypes, load_part
from memsieve.filtering.quiet import no_loading_bars

__all__ = ["config_folder", "load_checkpoint", "told_scheduler"]

_UNET: Final = "model.diffusion_model."
_INSIDE: Final = {
    "vae": ("first_stage_model.", "vae."),
    "CLIP": ("cond_stage_model.", "conditioner.embedders.", "text_encoders.clip_"),
    "T5": ("text_encoders.t5xxl.",),
}
"""What the names of a part's tensors begin with, in the files that diffusers reads."""
_QUANTISED: Final = re.compile(
    r"\.scale_weight$|\.weight_scale(_2)?$|scaled_fp8$|\.comfy_quant$|\.quant_map$|\.absmax$"
)
"""Tensors without which the weights beside them mean something else; diffusers' converters leave them out."""
_EDM: Final = ("edm_mean", "edm_vpred.sigma_max")
"""Tensors by which ComfyUI tells models that are preconditioned as EDM's."""


def config_folder(file: NamedFile, option: str = "model.path") -> Path:
    """The pipeline folder with a checkpoint's configs and tokenizers, and the parts that it lacks: named behind it, or
    that of the model which diffusers takes it for; from the hub or its cache where it is a hub id.

    Raises:
        ValueError: the file is none of a model that diffusers can tell, or quantised, or the folder cannot be had.
    """
    if any(_QUANTISED.search(name) for name in file.names):
        raise ValueError(
            f"{option}: '{file.path}' is quantised, with scales beside its weights that diffusers' converters do not "
            "apply; name the model's 16-bit version"
        )
    named = file.beside or _told(file, option)
    if (Path(named) / INDEX).is_file():
        return Path(named)
    folder = config_snapshot(named, (), f"'{file.path}'", option)
    missing = tuple(
        part
        for part, told in read_index(folder, option).items()
        if part.startswith(("vae", "text_encoder")) and told[0] and not _holds(file, part, told[1])
    )
    return config_snapshot(named, missing, f"'{file.path}'", option) if missing else folder


def _told(file: NamedFile, option: str) -> str:
    """The hub id of the pipeline that diffusers takes a checkpoint for, by the names and shapes of its tensors."""
    from diffusers.loaders.single_file_utils import fetch_diffusers_config

    with safe_open(file.path, framework="pt") as opened:
        shapes = {name: torch.empty(opened.get_slice(name).get_shape(), device="meta") for name in file.names}
    told: dict[str, str] = fetch_diffusers_config(shapes)
    # Whatever it does not know it takes for Stable Diffusion 1.
    if told == fetch_diffusers_config({}) and not any(name.startswith(_UNET) for name in file.names):
        raise ValueError(
            f"{option}: '{file.path}' is no checkpoint that diffusers can tell by its {len(file.names)} tensors (the "
            f"first: {', '.join(file.names[:3])}). Where it is the network of a model, name a pipeline folder with the "
            f"other parts behind it: {file.path}{JOINED}FOLDER"
        )
    return told["pretrained_model_name_or_path"]


def _holds(file: NamedFile, part: str, kind: str) -> bool:
    """Whether a checkpoint has the weights of a part, which is of the class named ``kind``."""
    begins = [prefixes for word, prefixes in _INSIDE.items() if part == word or kind.startswith(word)]
    return any(name.startswith(prefixes) for prefixes in begins for name in file.names)


def told_scheduler(file: NamedFile, config: dict[str, Any], option: str = "model.path") -> dict[str, Any]:
    """A scheduler's config, put right by what the checkpoint itself says, in tensors that ComfyUI knows: ``v_pred``
    (it predicts v) and ``ztsnr`` (its noise has no signal left at the last step).

    Raises:
        ValueError: it says that it is preconditioned as EDM's.
    """
    edm = [name for name in _EDM if name in file.names]
    if edm:
        raise ValueError(
            f"{option}: '{file.path}' says by '{edm[0]}' that its network's input and output are scaled by the noise "
            "level (EDM preconditioning), which training and measuring do not know"
        )
    told: dict[str, Any] = {"prediction_type": "v_prediction"} if "v_pred" in file.names else {}
    if "ztsnr" in file.names:
        told |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config | told


def load_checkpoint(
    family: Any, file: NamedFile, index: dict[str, Any], dtypes: Dtypes, option: str = "model.path"
) -> dict[str, Any]:
    """Every part of a family, from a checkpoint and from the folder beside it, as ``load_parts`` gives them.

    Args:
        family: the adapter's class, which names the parts.
        index: of the folder, model_index.json.

    Raises:
        ValueError: a part is in neither, or cannot be loaded; the message names it.
    """
    found: dict[str, Any] = {}
    encoders: list[str] = []
    no_loading_bars()
    for name, kind in family.parts.items():
        inside = name in NETWORKS or _holds(file, name, kind.__name__)
        if inside and dtypes.bits(name) is not None:
            raise ValueError(_whole_bits(file, name))
        if name in NETWORKS or (name == "vae" and inside):
            found[name] = _converted(kind, file, name, dtypes, option)
        elif inside and issubclass(kind, torch.nn.Module):
            encoders.append(name)
        elif name in family.optional and not (index.get(name) or [None])[0]:
            found[name] = None
        else:
            found[name] = _from_folder(kind, file, name, dtypes, option)
    if encoders:
        found |= _text_encoders(family, file, encoders, index, found, dtypes.text, option)
    for name, part in found.items():
        if isinstance(part, torch.nn.Module) and name not in NETWORKS:
            part.requires_grad_(False).eval()
    return {name: found[name] for name in family.parts}


def _whole_bits(file: NamedFile, name: str) -> str:
    setting = "model.quantize" if name in NETWORKS else "model.text_encoder_quantize"
    named = f"{file.path}{JOINED}{file.beside}"
    code = (
        "from memsieve.filtering.denoisers.registry import open_denoiser; "
        f"open_denoiser({named!r}).own_pipeline().save_pretrained('FOLDER')"
    )
    return (
        f"{setting}: diffusers holds no {name} in fewer bits that it reads from one file ('{file.path}'). Write it as "
        f"a pipeline folder first, and name that: python -c {shlex.quote(code)}"
    )


def _from_folder(kind: Any, file: NamedFile, name: str, dtypes: Dtypes, option: str) -> Any:
    try:
        return load_part(kind, str(file.beside), name, dtypes, option)
    except ValueError as error:
        if not issubclass(kind, torch.nn.Module):
            raise
        raise ValueError(
            f"{option}: '{file.path}' holds no {name}, so that it is read from '{file.beside}'. {error}"
        ) from error


def _converted(kind: Any, file: NamedFile, name: str, dtypes: Dtypes, option: str) -> Any:
    """The network or the VAE."""
    if not hasattr(kind, "from_single_file"):
        raise ValueError(
            f"{option}: diffusers reads no single file of a {kind.__name__}, and '{file.path}' is one; name a pipeline "
            "folder"
        )
    options = {"config": str(file.beside), "subfolder": name, "local_files_only": True, **dtypes.loading(kind, name)}
    with _fits(file, name, option):
        part = kind.from_single_file(str(file.path), **options)
        _check_whole(part)
    return part


def _text_encoders(
    family: Any,
    file: NamedFile,
    names: list[str],
    index: dict[str, Any],
    found: dict[str, Any],
    dtype: torch.dtype,
    option: str,
) -> dict[str, Any]:
    """Text encoders are read by the pipeline alone: it is given all else that it would make."""
    given = {name: None for name, told in index.items() if isinstance(told, list)} | found
    for name in names:
        del given[name]
        if index.get(name) != ["transformers", family.parts[name].__name__]:
            raise ValueError(
                f"{option}: the {name} of '{file.beside}' is a {index.get(name)}, where this family has a "
                f"{family.parts[name].__name__}; name another folder behind '{file.path}'"
            )
    with _fits(file, " and ".join(names), option):
        pipe = family.pipeline_class.from_single_file(
            str(file.path), config=str(file.beside), torch_dtype=dtype, local_files_only=True, **given
        )
        read = {name: getattr(pipe, name) for name in names}
        for part in read.values():
            _check_whole(part)
    return read


def _check_whole(part: torch.nn.Module) -> None:
    missing = [name for name, value in part.state_dict().items() if value.is_meta]
    if missing:
        raise ValueError(f"{len(missing)} of its tensors are not in the file, {missing[0]} among them")


@contextmanager
def _fits(file: NamedFile, name: str, option: str) -> Iterator[None]:
    """Refuse what diffusers cannot put into a part, and what it leaves out with a warning alone."""
    left_out = _Warnings()
    logger = logging.getLogger("diffusers.loaders.single_file_model")
    level = logger.level
    logger.addHandler(left_out)
    logger.setLevel(logging.WARNING)
    try:
        yield
        if left_out.said:
            raise ValueError(left_out.said[0])
    except (ValueError, RuntimeError, OSError, LookupError, AttributeError, TypeError, SafetensorError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        if "meta tensor" in said:
            said = "tensors are missing in the file"
        raise ValueError(
            f"{option}: the {name} of '{file.path}' does not fit the configs in '{file.beside}': {said[:300]}. Name "
            f"the folder or hub id of the model that it was made from: {file.path}{JOINED}FOLDER"
        ) from error
    finally:
        logger.removeHandler(left_out)
        logger.setLevel(level)


class _Warnings(logging.Handler):
    """Of tensors that diffusers left out."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "were not used" in record.getMessage():
            self.said.append(record.getMessage())
