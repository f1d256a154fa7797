"""Checkpoints: saved by all ranks, complete or not at all, found again by the same command."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch

__all__ = ["latest_checkpoint", "load_extra", "save_checkpoint"]

_NAME = re.compile(r"^step-(\d{8})$")


def latest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder, if any."""
    folder = run / "checkpoints"
    found = sorted(p for p in folder.glob("step-*") if _NAME.match(p.name)) if folder.is_dir() else []
    return found[-1] if found else None


def save_checkpoint(accelerator: Any, run: Path, step: int, extra: dict[str, Any], keep: int) -> Path:
    """Write ``checkpoints/step-N``: engine state by accelerate on every rank, and ``extra`` beside it.

    It appears under its name only once complete; older ones beyond ``keep`` go afterwards.
    """
    final = run / "checkpoints" / f"step-{step:08d}"
    temporary = run / "checkpoints" / f"unfinished-{step:08d}"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))
    torch.save(extra, temporary / f"memsieve-rank{accelerator.process_index}.pt")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        temporary.rename(final)
        for old in sorted(p for p in final.parent.glob("step-*") if _NAME.match(p.name))[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return final


def load_extra(accelerator: Any, checkpoint: Path, engine: str) -> dict[str, Any]:
    """What ``save_checkpoint`` was given on this rank; tensors and plain values only.

    Raises:
        ValueError: the checkpoint was written by another number of ranks or another engine.
    """
    files = sorted(checkpoint.glob("memsieve-rank*.pt"))
    if len(files) != accelerator.num_processes:
        raise ValueError(
            f"checkpoint '{checkpoint}' was written by {len(files)} ranks and this run has "
            f"{accelerator.num_processes}: launch with {len(files)} processes, or start a new run folder"
        )
    path = checkpoint / f"memsieve-rank{accelerator.process_index}.pt"
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["engine"] != engine:
        raise ValueError(
            f"checkpoint '{checkpoint}' was written by {state['engine']} and this run is {engine}: launch it as "
            "before, or start a new run folder"
        )
    return state
