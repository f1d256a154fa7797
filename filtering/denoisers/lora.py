"""LoRA on a denoising network, through peft: put in, switched off for the reference, written as diffusers loads it.

W x becomes W x + (alpha / rank) B A x (Hu et al., ICLR 2022). B starts at zero, so that with the adapter switched off
the network is the model before fine-tuning, and stays it: the reference costs no copy and no memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from memsieve.filtering.files import write_json
from memsieve.filtering.settings import Settings, SettingsError, expand_home

__all__ = [
    "LORA_FILE",
    "AdapterOff",
    "LoraSettings",
    "adapter_off",
    "add_lora",
    "base_of",
    "export_lora",
    "fuse_lora",
    "has_adapter",
    "trained_parameters",
]

LORA_FILE: Final = "pytorch_lora_weights.safetensors"
"""The name that diffusers' ``load_lora_weights`` looks for."""
_PEFT_FILE: Final = "adapter_model.safetensors"
_BASE_FILE: Final = "base_model.json"
_ADAPTER: Final = "default"


class LoraSettings(Settings):
    """Section ``model.lora``."""

    rank: int = Field(default=16, ge=1)
    alpha: int | None = Field(default=None, ge=1)
    """The adapter's output is multiplied by alpha / rank; None: alpha = rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Of the adapter's input, in training forwards alone."""
    target_modules: list[str] | None = Field(default=None, min_length=1)
    """Ends of the names of the layers that get an adapter; None: the family's attention layers."""
    init: Literal["default", "gaussian"] = "gaussian"
    """How A is drawn: Kaiming-uniform, or normal with deviation 1 / rank as diffusers' examples do. B is zero. Others
    of peft's change the base weights, and with them the reference."""


def add_lora(denoiser: Any, settings: LoraSettings, seed: int) -> None:
    """Put an adapter, in float32 and drawn from ``seed``, into ``denoiser.model`` and freeze everything else.

    Raises:
        SettingsError: peft is not installed, or no layer has one of the names.
    """
    try:
        from diffusers.training_utils import cast_training_params
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise SettingsError("model.lora needs peft, which is not installed: pip install 'memsieve[lora]'") from error
    model: Any = denoiser.model
    targets = settings.target_modules or list(denoiser.lora_targets)
    model.requires_grad_(False)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha if settings.alpha is not None else settings.rank,
        lora_dropout=settings.dropout,
        init_lora_weights=True if settings.init == "default" else "gaussian",
        target_modules=targets,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, model, _ADAPTER)
        except ValueError as error:
            known = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if _is_layer(part)})
            raise SettingsError(
                f"model.lora.target_modules: {targets} cannot be adapted in a {type(model).__name__} "
                f"({str(error).splitlines()[0][:200]}); its layers end in {', '.join(known)}"
            ) from error
    cast_training_params(model, dtype=torch.float32)


def _is_layer(part: torch.nn.Module) -> bool:
    return isinstance(part, torch.nn.Linear | torch.nn.Conv2d)


def trained_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """What training moves: all parameters of a full fine-tune, the adapter's under LoRA."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@contextmanager
def adapter_off(model: torch.nn.Module) -> Iterator[None]:
    """Within it ``model``, bare or wrapped by DDP or DeepSpeed, is the base model: for forwards without gradients.

    Raises:
        ValueError: there is no adapter.
    """
    layers = _adapted_layers(model)
    if not layers:
        raise ValueError("the model has no LoRA adapter to switch off")
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def has_adapter(part: Any) -> bool:
    """Whether a part of a pipeline holds a LoRA."""
    return isinstance(part, torch.nn.Module) and bool(_adapted_layers(part))


def _adapted_layers(model: torch.nn.Module) -> list[Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [part for part in model.modules() if isinstance(part, BaseTunerLayer)]


class AdapterOff(torch.nn.Module):
    """The model before fine-tuning: ``model``'s forward with its adapter switched off."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As ``model``'s."""
        with adapter_off(self.model):
            return self.model(*args, **kwargs)


def export_lora(
    denoiser: Any, folder: Path, model: torch.nn.Module, base: str, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Write the adapter so that the family's plain pipeline takes it with ``load_lora_weights(folder)``.

    A pipeline without that method (PixArt) gets peft's own files, for ``PeftModel.from_pretrained(pipe.transformer,
    folder)``, as in diffusers' example for it.

    Args:
        model: the bare network.
        base: the folder or hub id of what is adapted, noted beside the weights.
        weights: its parameters by name, where ``model`` itself does not hold them.
    """
    from peft.utils import get_peft_model_state_dict

    module: Any = model
    pipe = denoiser.pipeline(module)
    (part,) = [name for name, component in pipe.components.items() if component is module]
    state = get_peft_model_state_dict(module, state_dict=weights, adapter_name=_ADAPTER)
    layers = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(type(pipe), "save_lora_weights"):
        options = {
            # In peft's names. diffusers' examples rename those of a UNet, attention layers otherwise than the rest, and
            # a file with both kinds of names loads in part.
            f"{part}_lora_layers": layers,
            # Without it diffusers takes alpha to be the rank.
            f"{part}_lora_adapter_metadata": module.peft_config[_ADAPTER].to_dict(),
        }
        type(pipe).save_lora_weights(str(folder), weight_name=LORA_FILE, safe_serialization=True, **options)
    else:
        module.peft_config[_ADAPTER].save_pretrained(str(folder))
        save_file({f"base_model.model.{name}": value for name, value in layers.items()}, folder / _PEFT_FILE)
    named = str(Path(base).resolve()) if Path(base).is_dir() else base
    write_json(folder / _BASE_FILE, {"base_model": named})


def base_of(folder: str, option: str = "model.path") -> str | None:
    """The base model of a LoRA folder that ``export_lora`` wrote; None where ``folder`` is none.

    Raises:
        ValueError: the folder does not say which model it adapts.
    """
    place = Path(expand_home(folder))
    if not any((place / name).is_file() for name in (LORA_FILE, _PEFT_FILE)):
        return None
    try:
        named = json.loads((place / _BASE_FILE).read_text(encoding="utf-8"))["base_model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{option}: '{folder}' holds a LoRA, and no {_BASE_FILE} that names its base model; write "
            f'{{"base_model": "FOLDER OR HUB ID"}} there'
        ) from error
    return str(named)


def fuse_lora(pipe: Any, folder: str, option: str = "model.path", *, fuse: bool = True) -> None:
    """Add the adapter in ``folder`` to the weights of a pipeline's network, in place; or, not ``fuse``, put it in as an
    adapter that ``AdapterOff`` switches off.

    Raises:
        ValueError: it does not fit the model.
    """
    folder = expand_home(folder)
    try:
        if (Path(folder) / LORA_FILE).is_file():
            _fuse_file_of_diffusers(pipe, folder, fuse)
        else:
            _fuse_files_of_peft(pipe, folder, fuse)
    except (ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise ValueError(
            f"{option}: the LoRA in '{folder}' does not fit its base model: {str(error).splitlines()[0][:300]}"
        ) from error


def _fuse_file_of_diffusers(pipe: Any, folder: str, fuse: bool) -> None:
    if not hasattr(type(pipe), "load_lora_weights"):
        raise ValueError(f"a {type(pipe).__name__} takes none of this kind")
    pipe.load_lora_weights(folder, weight_name=LORA_FILE)
    # diffusers goes on without the adapter, with a warning, where the file's names are not the model's.
    if not any(_adapted_layers(part) for part in pipe.components.values() if isinstance(part, torch.nn.Module)):
        raise ValueError(f"none of its layers is one of a {type(pipe).__name__}")
    if fuse:
        pipe.fuse_lora()
        pipe.unload_lora_weights()


def _fuse_files_of_peft(pipe: Any, folder: str, fuse: bool) -> None:
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    network = pipe.components.get("transformer")
    if network is None:
        raise ValueError(f"a {type(pipe).__name__} takes none of this kind")
    adapted = PeftModel.from_pretrained(network, folder)
    # peft goes on with new layers in place of those that the file lacks.
    if get_peft_model_state_dict(adapted).keys() != load_file(Path(folder) / _PEFT_FILE).keys():
        raise ValueError(f"its layers are others than those of a {type(network).__name__}")
    if fuse:
        adapted.merge_and_unload()
