"""The denoising network as it is trained, and the model before fine-tuning that it is compared with."""

from __future__ import annotations

from typing import Any

import torch

from memsieve.filtering.denoisers.lora import add_lora
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.settings import SettingsError
from memsieve.train.checkpoint import leave_out_frozen
from memsieve.train.config import RunConfig
from memsieve.train.engine import Engine, cast_inputs
from memsieve.train.measure import frozen_copy

__all__ = ["frozen_reference", "make_network", "needs_reference"]


def needs_reference(filter: MemorizationFilter | None) -> bool:
    """Whether a signal is compared with the model before fine-tuning, and no audit says what that gave."""
    if filter is None or not filter.passes & {"ref_cond", "ref_uncond"}:
        return False
    return not filter.config.audits or filter.config.beyond == "frozen"


def frozen_reference(denoiser: Any, accelerator: Any) -> torch.nn.Module:
    """The model before a full fine-tune: half precision on a GPU, where it costs half the memory and time; full on a
    CPU, where half precision is slower."""
    dtype = torch.bfloat16 if accelerator.device.type == "cuda" else torch.float32
    return frozen_copy(denoiser.model, dtype).to(accelerator.device)


def make_network(
    config: RunConfig, denoiser: Any, accelerator: Any, engine: Engine, filter: MemorizationFilter | None
) -> Any:
    """The denoising network as it is trained: with its adapter, if any, in place and on the device.

    Raises:
        SettingsError: the adapter cannot be put in, or its dropout spoils what is measured.
    """
    network = denoiser.model
    if config.model.lora is not None:
        if config.model.lora.dropout and filter is not None and filter.schedule is not None:
            raise SettingsError(
                f"model.lora.dropout: {config.model.lora.dropout} and filter.apply: sieve, which measures by the "
                "training forward, do not go together; set it to 0, or filter.apply: batch"
            )
        add_lora(denoiser, config.model.lora, config.train.seed)
    if config.model.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    network.to(accelerator.device)
    leave_out_frozen(accelerator, network)
    if engine.deepspeed or config.model.dtype != "float32":
        cast_inputs(network)
    return network
