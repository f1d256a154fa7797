"""A pipeline folder for what a user names: the folder itself, or a hub id's copy in the cache."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from memsieve.filtering.folder_kind import is_training_run
from memsieve.filtering.settings import expand_home

__all__ = ["INDEX", "config_snapshot", "pipeline_folder", "read_index"]

_HUB_ID: Final = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
INDEX: Final = "model_index.json"
_CONFIGS: Final = ("*.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.jinja")
"""Files of a pipeline besides its weights."""
VARIANTS: Final = (None, "fp16", "bf16")
"""Of the weights on the hub, in the order in which they are wanted."""
_PATIENCE: Final = 10.0
"""Seconds in which the hub must answer once."""
NO_SAFETENSORS: Final = "Could not find the necessary `safetensors` weights"
"""How diffusers says that a variant is not there."""


def pipeline_folder(path: str, option: str = "model.path") -> Path:
    """The local folder of a diffusers pipeline, downloaded or found in the hub's cache where ``path`` is a hub id.

    Weights as safetensors only; code on the hub is never run.

    Args:
        option: named in messages.

    Raises:
        ValueError: there is no such folder or model, it is gated, or the hub cannot be reached and the cache lacks it.
    """
    path = expand_home(path)
    folder = Path(path)
    if (folder / INDEX).is_file():
        return folder
    if is_training_run(folder):
        raise ValueError(f"{option}: '{path}' is a training run, {_model_of(folder)}")
    if folder.exists() or not _HUB_ID.match(path):
        raise ValueError(
            f"{option}: '{path}' holds no diffusers pipeline (no {INDEX}); name a pipeline folder, or a hub id such as "
            "stabilityai/stable-diffusion-xl-base-1.0"
        )
    if folder.parent.is_dir() and str(folder.parent) != ".":
        raise ValueError(
            f"{option}: '{path}' is not there, though its folder '{folder.parent}' is: name a pipeline folder, or a "
            "hub id such as stabilityai/stable-diffusion-xl-base-1.0"
        )
    return _from_hub(path, option)


def _model_of(run: Path) -> str:
    found = [run / name for name in ("pipeline", "lora") if (run / name).is_dir()]
    return f"its model is '{found[0]}'" if found else "and has exported no model; run it to its end"


def _from_hub(name: str, option: str) -> Path:
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download

    with _said(name, f"'{name}' is neither a local folder nor, in whole, in", f"hf download {name}", option):
        _reach(name)
        hf_hub_download(name, INDEX)
        for variant in VARIANTS:
            try:
                return Path(DiffusionPipeline.download(name, use_safetensors=True, variant=variant))
            except OSError as error:
                if NO_SAFETENSORS not in str(error):
                    raise
        raise ValueError(
            f"{option}: not every part of '{name}' has .safetensors weights on the hub, and pickles (.bin) can run "
            "code when they are loaded, so that they are not read. If you trust this model, fetch it with `hf download "
            f"{name} --local-dir FOLDER` and name that folder: what is said then has the command that converts it"
        )


def _reach(name: str) -> None:
    """Ask the hub once for a model that the cache lacks: its client would ask for half a minute where it cannot be
    reached."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(name, INDEX), str):
        return
    try:
        HfApi().model_info(name, timeout=_PATIENCE)
    except (HfHubHTTPError, OSError):
        raise
    except Exception as error:  # what the HTTP client raises, by its version
        raise LocalEntryNotFoundError(f"{type(error).__name__}: {error}") from error


def config_snapshot(name: str, weights: tuple[str, ...], what: str, option: str = "model.path") -> Path:
    """The configs and tokenizers of a pipeline on the hub, downloaded or found in its cache.

    Args:
        name: the hub id.
        weights: parts of which the weights are wanted too, as safetensors.
        what: needs them; named in messages.

    Raises:
        ValueError: as ``pipeline_folder``.
    """
    from huggingface_hub import snapshot_download

    if not _HUB_ID.match(name):
        raise ValueError(
            f"{option}: '{name}' holds no diffusers pipeline (no {INDEX}); name a pipeline folder, or a hub id"
        )
    wanted = [*_CONFIGS, *(f"{part}/*.safetensors" for part in weights)]
    command = f"hf download {name} " + " ".join(f"--include '{pattern}'" for pattern in wanted)
    with _said(name, f"{what} needs the configs and tokenizers of '{name}', which are not in", command, option):
        folder = Path(snapshot_download(name, allow_patterns=wanted))
    if not (folder / INDEX).is_file():
        raise ValueError(f"{option}: {what} needs {INDEX} of '{name}', which this machine's hub cache lacks: {command}")
    return folder


@contextmanager
def _said(name: str, lacking: str, command: str, option: str) -> Iterator[None]:
    """What the hub's client raises, in one sentence that says what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise ValueError(
            f"{option}: '{name}' is gated: accept its licence at https://huggingface.co/{name}, then log in with `hf "
            "auth login` (or set HF_TOKEN), and run the same command again"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{option}: there is no model '{name}' on the hub, or it is private: check the name, or log in with `hf "
            "auth login`"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, HfHubHTTPError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise ValueError(
                f"{option}: '{name}' is no diffusers pipeline (the repository has no {INDEX}); name its diffusers "
                "version, or a pipeline folder"
            ) from error
        raise ValueError(
            f"{option}: {lacking} this machine's hub cache, and the hub cannot be reached "
            f"({str(error).splitlines()[0]}); go online once (`{command}`), or name a folder"
        ) from error


def read_index(folder: Path, option: str = "model.path") -> dict[str, Any]:
    """A pipeline folder's model_index.json.

    Raises:
        ValueError: it is no JSON mapping.
    """
    try:
        value = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{option}: '{folder / INDEX}' is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{option}: '{folder / INDEX}' is no pipeline's index")
    return value
