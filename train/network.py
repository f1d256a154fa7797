"""The denoising network as it is trained, and the model before fine-tuning that it is compared with."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch.nn.parallel import DistributedDataParallel

from memsieve.filtering.denoisers.lora import AdapterOff, add_lora, trained_parameters
from memsieve.filtering.denoisers.registry import DTYPES
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.settings import SettingsError
from memsieve.train.checkpoint import leave_out_frozen
from memsieve.train.config import RunConfig
from memsieve.train.engine import Engine, cast_inputs
from memsieve.train.optimizers import make_optimizer

__all__ = [
    "Trained",
    "drops_out",
    "frozen_copy",
    "frozen_reference",
    "make_network",
    "needs_reference",
    "prepare_model",
]


def needs_reference(pair_filter: MemorizationFilter | None) -> bool:
    """Whether a signal is compared with the model before fine-tuning, and no audit says what that gave."""
    if pair_filter is None or not pair_filter.passes & {"ref_cond", "ref_uncond"}:
        return False
    return not pair_filter.config.audits or pair_filter.config.beyond == "frozen"


def frozen_copy(model: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """The model before fine-tuning, detached from it, in ``dtype``, its convolutions laid out for forwards alone."""
    copied = copy.deepcopy(model).requires_grad_(False).eval()
    if next(copied.parameters()).dtype != dtype:
        copied = copied.to(dtype)
    return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def drops_out(model: torch.nn.Module) -> bool:
    """Whether ``model`` drops something out in training, so that its training forward is no measurement."""
    return any(isinstance(part, torch.nn.Dropout) and part.p > 0 for part in model.modules())


def frozen_reference(denoiser: Any, accelerator: Any) -> torch.nn.Module:
    """The model before a full fine-tune: half precision on a GPU, where it costs half the memory and time; full on a
    CPU, where half precision is slower."""
    dtype = torch.bfloat16 if accelerator.device.type == "cuda" else torch.float32
    return frozen_copy(denoiser.model, dtype).to(accelerator.device)


def make_network(
    config: RunConfig, denoiser: Any, accelerator: Any, engine: Engine, pair_filter: MemorizationFilter | None
) -> Any:
    """The denoising network as it is trained: with its adapter, if any, in place and on the device.

    Raises:
        SettingsError: the adapter cannot be put in, or its dropout spoils what is measured.
    """
    network = denoiser.model
    if config.model.lora is not None:
        if config.model.lora.dropout and pair_filter is not None and pair_filter.schedule is not None:
            raise SettingsError(
                f"model.lora.dropout: {config.model.lora.dropout} and filter.apply: sieve, which measures by the "
                "training forward, do not go together; set it to 0, or filter.apply: batch"
            )
        add_lora(denoiser, config.model.lora, config.train.seed)
    idle = [name for name, _ in network.named_parameters() if name.startswith(denoiser.idle_layers)]
    if idle:  # else DDP waits for gradients that never come
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, idle)
    if config.model.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    network.to(accelerator.device)
    leave_out_frozen(accelerator, network)
    if engine.deepspeed or config.model.dtype != "float32":
        cast_inputs(network, DTYPES[config.model.dtype] if config.model.quantize else None)
    return network


@dataclass(frozen=True, slots=True)
class Trained:
    """The network as it is trained, ``scored`` by extra forwards, and beside it the one before fine-tuning."""

    model: torch.nn.Module
    optimizer: Any
    schedule: Any
    ema: EMAModel | None
    scored: torch.nn.Module
    reference: torch.nn.Module | None


def prepare_model(
    config: RunConfig,
    accelerator: Any,
    engine: Engine,
    denoiser: Any,
    pair_filter: MemorizationFilter | None,
    total_steps: int,
) -> Trained:
    """Make the network, its optimizer and its schedule, and hand them to the engine; the reference is copied first."""
    compared, adapted = needs_reference(pair_filter), config.model.lora is not None
    reference = frozen_reference(denoiser, accelerator) if compared and not adapted else None
    network = make_network(config, denoiser, accelerator, engine, pair_filter)
    trained = trained_parameters(network)
    ema = EMAModel(trained, decay=config.model.ema_decay) if config.model.ema else None
    model, optimizer = accelerator.prepare(network, make_optimizer(config.optimizer, trained, engine.precision))
    model.train()
    schedule = get_scheduler(
        config.optimizer.scheduler,
        optimizer=optimizer,
        num_warmup_steps=config.optimizer.warmup_steps,
        num_training_steps=total_steps,
    )
    if ema is not None:
        ema.to(accelerator.device)
    # Where parameters are sharded every forward goes through the engine; elsewhere extra ones go past its hooks.
    scored = model if engine.sharded else accelerator.unwrap_model(model)
    if compared and adapted:
        reference = AdapterOff(scored)
    return Trained(model, optimizer, schedule, ema, scored, reference)
