"""Which weight files a part of a pipeline folder holds: safetensors, plain or of a variant such as fp16; no pickles."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, Final

__all__ = ["PICKLES", "variants_of", "weights_variant"]

PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Ends of files that run code when they are loaded."""
_SAFE: Final = re.compile(r"(diffusion_pytorch_model|model)(\.(?P<variant>\w+))?(-\d{5}-of-\d{5})?\.safetensors")
_PREFERRED: Final = ("fp16", "bf16", "fp32")


def weights_variant(folder: Path, part: str, option: str = "model.path") -> str | None:
    """The ``variant`` that loads the weights of ``part``: None where there are plain safetensors.

    Args:
        folder: of the pipeline.
        part: of the pipeline, a folder in it.
        option: named in messages.

    Raises:
        ValueError: there are no safetensors; the message says what there is, and what to do.
    """
    names = sorted(file.name for file in (folder / part).iterdir())
    found = [match for name in names if (match := _SAFE.fullmatch(name))]
    variants = {match["variant"] for match in found}
    if not variants:
        _refuse(folder, part, names, option)
    if None in variants:
        return None
    known = [name for name in _PREFERRED if name in variants]
    return known[0] if known else sorted(variants)[0]


def _refuse(folder: Path, part: str, names: list[str], option: str) -> None:
    pickles = [name for name in names if name.endswith(PICKLES)]
    if not pickles:
        raise ValueError(
            f"{option}: the {part}/ folder of '{folder}' holds no weights ({', '.join(names[:5]) or 'it is empty'}); "
            "copy or download the pipeline again, with its .safetensors files"
        )
    raise ValueError(
        f"{option}: '{folder}' has only {Path(pickles[0]).suffix} (pickle) weights in {part}/ ({pickles[0]}). A pickle "
        "can run code when it is loaded, so that weights are read as .safetensors alone. If you trust this model, "
        f"convert it once and name the new folder: {conversion(folder)}"
    )


def conversion(folder: Path) -> str:
    """A command that writes the pipeline in ``folder`` anew as safetensors, for a person to run."""
    variants = [match["variant"] for file in folder.glob("*/*.safetensors") if (match := _SAFE.fullmatch(file.name))]
    named = [name for name in variants if name is not None]
    option = f", variant={named[0]!r}" if named else ""
    old, new = str(folder), f"{str(folder).rstrip('/')}-safetensors"
    code = (
        f"from diffusers import DiffusionPipeline; DiffusionPipeline.from_pretrained({old!r}{option})"
        f".save_pretrained({new!r}, safe_serialization=True)"
    )
    return f"python -c {shlex.quote(code)}"


def variants_of(folder: Path, index: dict[str, Any], option: str = "model.path") -> dict[str, str | None]:
    """The variant of every part of a pipeline that has weights, by the part's name in its ``index``.

    Raises:
        ValueError: a part has no safetensors.
    """
    found: dict[str, str | None] = {}
    for part, named in index.items():
        place = folder / part
        if not isinstance(named, list) or not named or named[0] is None or not place.is_dir():
            continue
        names = [file.name for file in place.iterdir()]
        if any(_SAFE.fullmatch(name) or name.endswith(PICKLES) for name in names):
            found[part] = weights_variant(folder, part, option)
    return found
