"""The engine a run trains on: one process, DDP or DeepSpeed ZeRO 1-3; what it supports, and what it must be told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs, ProjectConfiguration

from memsieve.filtering.denoisers.attention import leave_out_cudnn
from memsieve.filtering.denoisers.quantize import precision_of
from memsieve.filtering.extras import install
from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.tracker_kinds import check_installed

__all__ = ["ENGINES", "Engine", "full_weights", "make_accelerator"]

ENGINES: Final = ("single", "ddp", "zero1", "zero2", "zero3")
_OURS: Final = {"optimizer": "section optimizer", "scheduler": "optimizer.schedule"}


@dataclass(frozen=True, slots=True)
class Engine:
    """``name`` is one of ``ENGINES``; ``offload`` says that the optimizer's state lives in host memory.

    A checkpoint belongs to the engine that wrote it: its text form is what a resume compares.
    """

    name: str
    offload: bool = False
    precision: str = "no"

    def __str__(self) -> str:
        return f"{self.name}{' with offload' if self.offload else ''}, mixed precision {self.precision}"

    @property
    def deepspeed(self) -> bool:
        """Backward steps by itself, and gradients are divided by the accumulation inside."""
        return self.name.startswith("zero")

    @property
    def sharded(self) -> bool:
        """A rank holds a part of the parameters only: every forward is a collective."""
        return self.name == "zero3"

    def check(self, config: RunConfig) -> None:
        """Refuse what this engine cannot do (the matrix in docs/distributed.md).

        Raises:
            SettingsError: names the option, its value and the way out.
        """
        if self.sharded and config.model.ema:
            raise SettingsError(
                "model.ema: true cannot be used with ZeRO-3, where no rank holds the weights to average; set it to "
                "false, or launch with ZeRO-2"
            )
        name = config.optimizer.name
        if self.deepspeed and config.model.quantize is not None:
            raise SettingsError(
                f"model.quantize: {config.model.quantize} was not tried under ZeRO, which takes parameters for numbers "
                "of one dtype; launch with DDP, or leave it out"
            )
        if self.deepspeed and name == "prodigy":
            raise SettingsError(
                "optimizer.name: prodigy finds one step size from all weights, of which a rank sees a part under ZeRO; "
                "use adamw, or launch with DDP"
            )
        if self.offload and name != "adamw":
            raise SettingsError(
                f"optimizer.name: {name} cannot be used with an offloaded optimizer, which DeepSpeed replaces by its "
                "Adam; use adamw, or a DeepSpeed config without offload_optimizer"
            )


def make_accelerator(config: RunConfig) -> tuple[Any, Engine]:
    """The accelerator for what the launcher asks for, with the engine's own settings taken from ``config``.

    Where ranks are many and there is no GPU (or ``ACCELERATE_USE_CPU`` is set), they talk through gloo.

    Raises:
        SettingsError: an engine, a tracker or a combination that is not there or not supported, a DeepSpeed config that
            contradicts the run's, or processes that were launched together and do not find each other.
    """
    check_installed(config.tracking.report_to)
    if _flag("ACCELERATE_USE_FSDP"):
        raise SettingsError(
            "the launcher asks for FSDP (ACCELERATE_USE_FSDP), which is not supported: accelerate shards by it on GPUs "
            "alone, and on processors, where N ranks were shown to do what one process would, trains by DDP instead; "
            "launch with DDP, or DeepSpeed ZeRO 1, 2 or 3 (see docs/distributed.md)"
        )
    leave_out_cudnn()
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    on_cpu = _flag("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    deepspeed = _flag("ACCELERATE_USE_DEEPSPEED")
    options: dict[str, Any] = {"timeout": timedelta(seconds=config.train.timeout)}
    plugin = None
    if deepspeed:
        if on_cpu:  # accelerate turns DeepSpeed off where it is told of a CPU, and needs the backend by name
            os.environ.pop("ACCELERATE_USE_CPU", None)
            os.environ["DS_ACCELERATOR"] = "cpu"
            options["backend"] = "gloo"
        plugin = _plugin(config, ranks)
    accelerator = Accelerator(
        cpu=on_cpu and not deepspeed and (ranks > 1 or _flag("ACCELERATE_USE_CPU")),
        gradient_accumulation_steps=config.train.accumulation,
        mixed_precision=config.train.mixed_precision,
        log_with=list(config.tracking.report_to) or None,
        project_config=ProjectConfiguration(str(config.output), logging_dir=str(config.output / "trackers")),
        kwargs_handlers=[InitProcessGroupKwargs(**options)],
        deepspeed_plugin=plugin,
    )
    if plugin is not None:
        # accelerate tells transformers of ZeRO-3, which would then share out the frozen text encoder while loading it
        from transformers.integrations import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
    if accelerator.num_processes != ranks:
        raise SettingsError(
            f"{ranks} processes were launched together, but this one sees {accelerator.num_processes}; launch with "
            "accelerate launch or torchrun, and without a GPU set ACCELERATE_USE_CPU=true"
        )
    engine = _engine(accelerator)
    engine.check(config)
    return accelerator, engine


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("1", "true", "yes")


def _engine(accelerator: Any) -> Engine:
    kind, precision = accelerator.distributed_type, str(accelerator.mixed_precision)
    if kind == DistributedType.NO:
        return Engine("single", precision=precision)
    if kind in (DistributedType.MULTI_GPU, DistributedType.MULTI_CPU):
        return Engine("ddp", precision=precision)
    if kind == DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"]
        offload = settings.get("offload_optimizer") or {}
        return Engine(f"zero{settings['stage']}", offload.get("device", "none") not in ("none", None), precision)
    raise SettingsError(
        f"distributed_type {str(kind).rsplit('.', 1)[-1]} is not supported; use MULTI_GPU (DDP) or DEEPSPEED with ZeRO "
        "1, 2 or 3 (see docs/distributed.md)"
    )


def _plugin(config: RunConfig, ranks: int) -> Any:
    """The launcher's DeepSpeed settings, completed by the run's own.

    Raises:
        SettingsError: DeepSpeed is not installed, or its settings contradict the run's.
    """
    try:
        import deepspeed  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"the launcher asks for DeepSpeed, which is not installed: {install('deepspeed')}"
        ) from error
    from accelerate.utils import DeepSpeedPlugin

    # What a launcher config leaves unsaid must not become accelerate's default: the run's config decides.
    for name in ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_GRADIENT_CLIPPING"):
        if os.environ.get(name, "auto") == "none":
            os.environ.pop(name)
    plugin = DeepSpeedPlugin(zero3_init_flag=False)  # models are loaded whole, then shared out
    settings = plugin.deepspeed_config
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    if stage not in (1, 2, 3):
        raise SettingsError(f"DeepSpeed's zero_optimization.stage is {stage}; use 1, 2 or 3, or DDP instead")
    for name, instead in _OURS.items():
        if name in settings:
            raise SettingsError(f"the DeepSpeed config has '{name}', which is the run's to say: remove it ({instead})")
    train = config.train
    ours = {
        "train_micro_batch_size_per_gpu": (train.batch_size, "train.batch_size"),
        "gradient_accumulation_steps": (train.accumulation, "train.accumulation"),
        "train_batch_size": (train.batch_size * train.accumulation * ranks, "batch x accumulation x ranks"),
        "gradient_clipping": (config.optimizer.max_grad_norm, "optimizer.max_grad_norm"),
    }
    for name, (value, ours_name) in ours.items():
        given = settings.get(name, "auto")
        unsaid = name == "gradient_accumulation_steps" and given == 1  # what accelerate writes where nothing was said
        if given not in ("auto", value) and not unsaid:
            raise SettingsError(
                f"the DeepSpeed config has {name}: {given} but {ours_name} is {value}; write 'auto', or make them equal"
            )
        settings[name] = value
    plugin.gradient_accumulation_steps = train.accumulation
    settings.setdefault("zero_allow_untested_optimizer", True)
    return plugin


def cast_inputs(network: torch.nn.Module, dtype: torch.dtype | None = None) -> None:
    """Make ``network`` take and give float32 where its parameters are held in half precision.

    Timesteps stay: those of flow models are not whole, and half precision would move them.

    Args:
        dtype: it computes in; by default that of its parameters.
    """

    def cast(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        # An adapted layer has its base before its adapter.
        kind = dtype or precision_of(module)
        return tuple(_as(value, kind) for value in args), {name: _as(value, kind) for name, value in kwargs.items()}

    def back(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        # A sampler keeps to what the network gives, and the VAE is in single precision.
        return tuple(_as(value, torch.float32) for value in output) if isinstance(output, tuple) else output

    network.register_forward_pre_hook(cast, with_kwargs=True)
    network.register_forward_hook(back)


def _as(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, dict):
        return {name: _as(part, dtype) for name, part in value.items()}
    if isinstance(value, list):  # Z-Image's latents, prompts and predictions
        return [_as(part, dtype) for part in value]
    numbers = isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1  # timesteps have one
    return value.to(dtype) if numbers else value


def full_weights(engine: Engine, network: torch.nn.Module, keep: bool) -> dict[str, torch.Tensor]:
    """All trained weights in float32 where the engine has them so, and buffers, on the CPU; a collective under
    DeepSpeed.

    Args:
        network: the bare model.
        keep: whether this rank wants them; the others give their parts and get an empty dict.
    """
    kept = network.state_dict().keys()  # without buffers that are computed anew (PixArt's positions)
    buffers = {name: value.cpu() for name, value in network.named_buffers() if name in kept}
    weights: dict[str, torch.Tensor] = buffers if keep else {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        value = _whole(engine, parameter)
        if keep:
            weights[name] = value.detach().cpu().clone()
    return weights


def _whole(engine: Engine, parameter: torch.nn.Parameter) -> torch.Tensor:
    if engine.sharded or (engine.deepspeed and parameter.dtype != torch.float32):
        from deepspeed.utils import safe_get_full_fp32_param

        value: torch.Tensor | None = safe_get_full_fp32_param(parameter)
        if value is not None:
            return value
    return parameter
