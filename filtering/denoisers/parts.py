"""The parts of a pipeline folder, loaded one by one: weights as safetensors only, nothing but what a family names."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from memsieve.filtering.denoisers.quantize import Bits, Quantize, load_quantised, loading_options
from memsieve.filtering.denoisers.weights import weights_variant
from memsieve.filtering.extras import install
from memsieve.filtering.quiet import no_loading_bars

__all__ = ["NETWORKS", "Dtypes", "load_part", "load_parts", "own_scheduler", "scheduler_config"]

NETWORKS: Final = ("unet", "transformer")
"""What pipelines call the denoising network."""


class Dtypes(NamedTuple):
    """Of the denoising network, the VAE and the text encoders."""

    network: torch.dtype = torch.float32
    vae: torch.dtype = torch.float32
    text: torch.dtype = torch.float32
    quantize: Quantize | None = None
    """Weights that are held in fewer bits."""

    def of(self, part: str) -> torch.dtype:
        """The dtype of a part, by its name in the pipeline."""
        if part in NETWORKS:
            return self.network
        return self.text if part.startswith("text_encoder") else self.vae

    def bits(self, part: str) -> Bits | None:
        """How many bits the weights of a part are held in; None where they are not quantised."""
        if self.quantize is None:
            return None
        if part in NETWORKS:
            return self.quantize.network
        return self.quantize.text if part.startswith("text_encoder") else None

    def loading(self, kind: Any, part: str) -> dict[str, Any]:
        """What a part's ``from_pretrained`` is told of them."""
        bits = self.bits(part)
        # transformers calls it dtype, diffusers torch_dtype
        word = "dtype" if issubclass(kind, PreTrainedModel) else "torch_dtype"
        told: dict[str, Any] = {word: self.of(part)}
        if bits is None or self.quantize is None:
            return told
        return told | loading_options(kind, bits, self.of(part), self.quantize.device)


def load_parts(
    kinds: dict[str, Any],
    optional: tuple[str, ...],
    folder: str,
    index: dict[str, Any],
    dtypes: Dtypes,
    option: str = "model.path",
) -> dict[str, Any]:
    """Every part of ``kinds``, frozen but for the denoising network; None where an ``optional`` one is not there.

    Args:
        index: the folder's model_index.json.
        option: named in messages.

    Raises:
        ValueError: a part is missing or cannot be loaded; the message names it.
    """
    found: dict[str, Any] = {}
    for name, kind in kinds.items():
        absent = name in optional and not (index.get(name) or [None])[0]
        found[name] = None if absent else load_part(kind, folder, name, dtypes, option)
        if isinstance(found[name], torch.nn.Module) and name not in NETWORKS:
            found[name].requires_grad_(False).eval()
    return found


def scheduler_config(folder: str, option: str = "model.path") -> dict[str, Any]:
    """The scheduler's config, of whatever class.

    Raises:
        ValueError: it is not there, or is no JSON mapping.
    """
    file = Path(folder) / "scheduler" / "scheduler_config.json"
    if not file.is_file():
        raise ValueError(f"{option}: '{folder}' has no scheduler/ folder; name a complete diffusers pipeline")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{option}: '{file}' is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{option}: '{file}' is no scheduler's config")
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


def load_part(kind: Any, folder: str, name: str, dtypes: Dtypes, option: str = "model.path") -> Any:
    """One part of a pipeline folder, weights as safetensors only, of a variant such as fp16 where there are no others.

    Raises:
        ValueError: it is not there, or cannot be loaded.
    """
    if not (Path(folder) / name).is_dir():
        raise ValueError(f"{option}: '{folder}' has no {name}/ folder; name a complete diffusers pipeline folder")
    options: dict[str, Any] = {}
    if issubclass(kind, torch.nn.Module):
        variant = weights_variant(Path(folder), name, option)
        options = {**dtypes.loading(kind, name), "use_safetensors": True, "variant": variant}
    no_loading_bars()
    try:
        return load_quantised(lambda: kind.from_pretrained(folder, subfolder=name, **options), dtypes.quantize)
    except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        unread = _needs_sentencepiece(Path(folder) / name)
        if unread or isinstance(error, ImportError):
            raise ValueError(
                f"{option}: the {name} of '{folder}' needs a package that is not installed "
                f"({'sentencepiece' if unread else said}); for T5 tokenizers: {install('t5')}"
            ) from error
        raise ValueError(
            f"{option}: cannot load the {name} of '{folder}': {said[:300]}. Its files may be damaged or incomplete: "
            "copy or download the pipeline again"
        ) from error


def _needs_sentencepiece(part: Path) -> bool:
    """A tokenizer in T5's own format alone, without the package that reads it: transformers asks for another one."""
    own = any(part.glob("*.model")) and not (part / "tokenizer.json").is_file()
    return own and find_spec("sentencepiece") is None
