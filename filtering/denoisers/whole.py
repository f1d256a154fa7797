"""A whole pipeline of any class from its folder, to draw with: weights are read as training reads them."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError

from memsieve.filtering.denoisers.hub import read_index
from memsieve.filtering.denoisers.parts import Dtypes, load_part
from memsieve.filtering.denoisers.weights import variants_of, weights_variant
from memsieve.filtering.quiet import no_loading_bars

__all__ = ["whole_pipeline"]

_LIBRARIES: Final = ("diffusers", "transformers")
"""Where the classes that an index names may come from, besides the pipelines' own folders in diffusers."""
CHECKER: Final = "safety_checker"


def whole_pipeline(folder: Path, dtype: torch.dtype = torch.float32, option: str = "--model") -> Any:
    """The pipeline in ``folder``, weights as safetensors alone; a safety checker without any is left out, and said.

    Args:
        option: named in messages.

    Raises:
        ValueError: a part cannot be loaded, or has pickled weights only.
    """
    from diffusers import DiffusionPipeline

    index = read_index(folder, option)
    given: dict[str, Any] = _without_checker(folder, index, option)
    for name, variant in variants_of(folder, index, option).items():
        if variant is not None and name not in given:  # diffusers would ask all parts for one variant
            given[name] = load_part(
                _class(index[name], name, folder, option), str(folder), name, Dtypes(dtype, dtype, dtype), option
            )
    no_loading_bars()
    try:
        return DiffusionPipeline.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, torch_dtype=dtype, **given
        )
    except (OSError, ValueError, RuntimeError, ImportError, AttributeError, TypeError, SafetensorError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{option}: the pipeline in '{folder}' cannot be loaded: {said[:300]}. Its files may be damaged or "
            "incomplete: copy or download it again"
        ) from error


def _without_checker(folder: Path, index: dict[str, Any], option: str) -> dict[str, Any]:
    """What is passed so that a safety checker without safetensors is left out; takes it out of ``index`` too."""
    named = index.get(CHECKER)
    if not isinstance(named, list) or not named or named[0] is None:
        return {}
    try:
        weights_variant(folder, CHECKER, option)
    except (ValueError, OSError) as error:
        warnings.warn(f"images are drawn without the pipeline's safety checker: {error}", stacklevel=4)
        del index[CHECKER]
        return {CHECKER: None, "requires_safety_checker": False}
    return {}


def _class(named: list[Any], part: str, folder: Path, option: str) -> Any:
    """The class that an index names for a part, of diffusers or transformers alone: the index is not trusted."""
    from diffusers import pipelines

    library, name = str(named[0]), str(named[1])
    module = import_module(library) if library in _LIBRARIES else getattr(pipelines, library, None)
    kind = getattr(module, name, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise ValueError(f"{option}: the {part} of '{folder}' is a {library}.{name}, which is not known here")
    return kind
