"""Checkpoints: saved by all ranks, complete or not at all, found again by the same command."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from memsieve.train.other_ranks import shared_out

__all__ = [
    "latest_checkpoint",
    "leave_out_frozen",
    "load_checkpoint",
    "load_extra",
    "remove_unfinished",
    "save_checkpoint",
    "saved_steps",
]

_NAME = re.compile(r"^step-(\d{8})$")


def saved_steps(run: Path) -> list[int]:
    """The steps of the complete checkpoints of a run folder, oldest first."""
    names = (_NAME.match(path.name) for path in (run / "checkpoints").glob("step-*"))
    return sorted(int(name[1]) for name in names if name is not None)


def latest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder, if any."""
    steps = saved_steps(run)
    return _folder(run, steps[-1]) if steps else None


def _folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def leave_out_frozen(accelerator: Any, network: torch.nn.Module) -> None:
    """Let checkpoints of ``network``, not prepared yet, hold the weights that are trained and no others."""
    trained = _trained_names(network)

    def reduce(models: list[Any], weights: list[dict[str, torch.Tensor]], folder: str) -> None:
        # DeepSpeed writes its own files, and gives no weights.
        weights[:] = [{k: v for k, v in state.items() if k.removeprefix("module.") in trained} for state in weights]

    accelerator.register_save_state_pre_hook(reduce)


def remove_unfinished(run: Path) -> None:
    """Remove what a run that ended while saving has left; for one process, before anything is saved."""
    for folder in (run / "checkpoints").glob("unfinished-*"):
        shutil.rmtree(folder)


def save_checkpoint(accelerator: Any, run: Path, step: int, extra: dict[str, Any], keep: int | None) -> Path:
    """Write ``checkpoints/step-N``: engine state by accelerate on every rank, and ``extra`` beside it.

    It appears under its name only once complete; older ones beyond ``keep`` go afterwards (None: all stay). Weights
    that are not trained are left out under DeepSpeed; see ``leave_out_frozen`` for the others.
    """
    final = _folder(run, step)
    temporary = run / "checkpoints" / f"unfinished-{step:08d}"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    options = {"exclude_frozen_parameters": True} if _deepspeed(accelerator) else {}
    accelerator.save_state(str(temporary), **options)
    torch.save(extra, temporary / f"memsieve-rank{accelerator.process_index}.pt")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        for old in saved_steps(run)[:-keep] if keep is not None else []:
            shutil.rmtree(_folder(run, old))
    accelerator.wait_for_everyone()
    return final


def load_checkpoint(accelerator: Any, checkpoint: Path, network: torch.nn.Module) -> None:
    """Restore what ``save_checkpoint`` had accelerate write; ``network`` is the bare model.

    Raises:
        ValueError: the checkpoint does not hold exactly the weights that are trained.
    """
    if _deepspeed(accelerator):
        whole = len(_trained_names(network)) == len(list(network.parameters()))
        accelerator.load_state(str(checkpoint), load_module_strict=whole)
        return
    _load_weights(checkpoint, network)
    # Of one process they have other names than of several, and accelerate would pass over those that it does not find.
    loaded = accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
    try:
        accelerator.load_state(str(checkpoint))
    finally:
        loaded.remove()


def _deepspeed(accelerator: Any) -> bool:
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)


def _trained_names(network: torch.nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def _load_weights(checkpoint: Path, network: torch.nn.Module) -> None:
    """Frozen weights need not be there, which is why they are loaded leniently; trained ones must."""
    held = {
        name.removeprefix("module."): weight
        for file in checkpoint.glob("model*.safetensors")
        for name, weight in load_file(file).items()
    }
    missing = sorted(_trained_names(network) - held.keys())
    unknown = sorted(held.keys() - network.state_dict().keys())
    if missing or unknown:
        raise ValueError(
            f"checkpoint '{checkpoint}' {'lacks' if missing else 'has'} '{(missing or unknown)[0]}', which the model "
            f"{'trains' if missing else 'does not have'}: resume with the model and model.lora that the run was "
            "started with, or start a new run folder"
        )
    network.load_state_dict(held, strict=False)


def load_extra(accelerator: Any, checkpoint: Path, engine: str) -> dict[str, Any]:
    """What ``save_checkpoint`` was given on this rank, or this rank's share of what it was given on another number of
    them; tensors and plain values only.

    Args:
        engine: the present one, as text.

    Raises:
        ValueError: the checkpoint was written by another engine, or under DeepSpeed by another number of ranks.
    """
    saved, ranks = len(list(checkpoint.glob("memsieve-rank*.pt"))), accelerator.num_processes
    mine = [accelerator.process_index] if saved == ranks else range(saved)
    states: list[dict[str, Any]] = [
        torch.load(checkpoint / f"memsieve-rank{rank}.pt", map_location="cpu", weights_only=True) for rank in mine
    ]
    state = states[0]
    if saved != ranks and (state["engine"].startswith("zero") or engine.startswith("zero")):
        raise ValueError(
            f"checkpoint '{checkpoint}' was written by {saved} ranks and this run has {ranks}, and DeepSpeed shares "
            f"the optimizer's state out by them: launch with {saved} processes, or start a new run folder"
        )
    if not _goes_on_as(state["engine"], engine):
        raise ValueError(
            f"checkpoint '{checkpoint}' was written by {state['engine']} and this run is {engine}: launch it as "
            "before (without DeepSpeed train.mixed_precision may become no or bf16), or start a new run folder"
        )
    return state if saved == ranks else shared_out(states, accelerator.process_index, ranks)


def _goes_on_as(before: str, now: str) -> bool:
    """Whether a run of engine ``before`` may go on as ``now``: the same, or without DeepSpeed, whose optimizer's state
    has the precision's layout, on any number of ranks, and in another precision than fp16, whose loss scaler has a
    state of its own."""
    (name, _, saved), (now_name, _, precision) = (text.partition(", mixed precision ") for text in (before, now))
    plain = {name, now_name} <= {"single", "ddp"}
    return before == now or (plain and (precision == saved or precision in ("no", "bf16")))
