"""Models that are named by a file: what it holds, by its header, and what it needs besides, behind ``::``.

``LORA.safetensors::BASE`` is a LoRA with its base model, ``MODEL.safetensors::FOLDER`` a checkpoint with the pipeline
folder whose configs it has.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Final, NamedTuple

from safetensors import SafetensorError, safe_open

from memsieve.filtering.denoisers.weights import PICKLES
from memsieve.filtering.settings import expand_home

__all__ = ["JOINED", "NamedFile", "named_file", "spelled_out", "tensor_names"]

JOINED: Final = "::"
"""Between a file and what it needs besides."""
SAFE: Final = ".safetensors"
_LORA: Final = re.compile(r"lora_|\.lora\.|_lora\.|\.hada_|\.lokr_")
"""In the names of tensors of diffusers, peft, kohya and LyCORIS; in those of no checkpoint."""


class NamedFile(NamedTuple):
    """A ``.safetensors`` file, and what was named with it."""

    path: Path
    beside: str | None
    """What stands behind ``::``; None where nothing does."""
    names: list[str]
    """Of its tensors."""

    @property
    def is_lora(self) -> bool:
        """Whether it holds layers of a LoRA; else it is a checkpoint, of a whole model or of a part."""
        return any(_LORA.search(name) for name in self.names)


def named_file(named: str, option: str = "model.path") -> NamedFile | None:
    """The file of weights that ``named`` is, with its tensors' names; None where it names a folder or a hub id.

    Args:
        option: named in messages.

    Raises:
        ValueError: it is a pickle, is not there, or is no safetensors file.
    """
    first, _, rest = named.partition(JOINED)
    path = Path(expand_home(first))
    if path.suffix in PICKLES and not path.is_dir():
        _refuse_pickle(path, option)
    if path.suffix != SAFE or path.is_dir():
        return None
    if not path.is_file():
        raise ValueError(f"{option}: there is no file '{path}'")
    return NamedFile(path, expand_home(rest) if rest else None, tensor_names(path, option))


def tensor_names(path: Path, option: str = "model.path") -> list[str]:
    """The names of the tensors in a safetensors file, by its header alone.

    Raises:
        ValueError: it is none, or was cut off.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{option}: '{path}' cannot be read as safetensors: {str(error).splitlines()[0][:200]}. It may be damaged "
            "or cut off: copy or download it again"
        ) from error


def spelled_out(named: str) -> str:
    """``named`` with paths that are there in full, so that it means the same from another working folder."""
    parts = [expand_home(part) for part in named.split(JOINED)]
    return JOINED.join(str(Path(part).resolve()) if Path(part).exists() else part for part in parts)


def _refuse_pickle(path: Path, option: str) -> None:
    new = str(path.with_suffix(SAFE))
    code = (
        "import torch; from safetensors.torch import save_file; "
        f"s = torch.load({str(path)!r}, map_location='cpu', weights_only=True); s = s.get('state_dict', s); "
        f"save_file({{k: v.contiguous().clone() for k, v in s.items() if isinstance(v, torch.Tensor)}}, {new!r})"
    )
    raise ValueError(
        f"{option}: '{path}' is a pickle ({path.suffix}), which can run code when it is loaded, so it is not read. "
        f"Name its .safetensors version, or write one (this loads tensors alone): python -c {shlex.quote(code)}"
    )
