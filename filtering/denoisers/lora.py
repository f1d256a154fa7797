"""LoRA on a denoising network, through peft: put in, and switched off for the reference (files: ``lora_files.py``).

W x becomes W x + (alpha / rank) B A x (Hu et al., ICLR 2022). B starts at zero, so that with the adapter switched off
the network is the model before fine-tuning, and stays it: the reference costs no copy and no memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal

import torch
from pydantic import Field

from memsieve.filtering.extras import install
from memsieve.filtering.settings import Settings, SettingsError

__all__ = [
    "ADAPTER",
    "AdapterOff",
    "LoraSettings",
    "adapted_layers",
    "adapter_off",
    "add_lora",
    "has_adapter",
    "trained_parameters",
]

ADAPTER: Final = "default"
"""What peft calls the one adapter that there is."""


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
        raise SettingsError(f"model.lora needs peft, which is not installed: {install('lora')}") from error
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
            inject_adapter_in_model(config, model, ADAPTER)
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
    layers = adapted_layers(model)
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
    return isinstance(part, torch.nn.Module) and bool(adapted_layers(part))


def adapted_layers(model: torch.nn.Module) -> list[Any]:
    """The layers of peft's in ``model``: one for each that a LoRA adapts."""
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
