"""A look at the model: what held-out and training pairs' losses have come to, which pairs come back, what is said."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console

from memsieve.filtering.data.rows import Row
from memsieve.train.export import export_best
from memsieve.train.probes import pair_losses
from memsieve.train.session import Session

__all__ = ["look", "look_at_the_base", "look_every"]


def look_every(session: Session) -> int:
    """Steps between validations: as the settings say; where the model is asked for what it recalls and nothing is
    said, a twentieth of the run. 0 is at the end alone."""
    asked = session.config.validation.every
    return asked or (max(1, session.total_steps // 20) if session.recall is not None else 0)


def look_at_the_base(session: Session) -> None:
    """The first look, before the first step, which later ones are compared with."""
    if not session.step and not session.overfits.looks:
        look(session, session.accelerator.unwrap_model(session.model))


def look(session: Session, model: torch.nn.Module) -> float:
    """Measure, log, and say what is found the moment it is true; the held-out loss is returned, NaN without.

    On all ranks alike. ``model`` holds the weights that are judged: the averaged ones where there are any.
    """
    count = session.config.validation.held_out_pairs
    held_out, training = session.held_out[:count], session.training_rows[:count]
    if not held_out:
        training = training[: session.config.train.batch_size]
    values: dict[str, float] = {}
    losses = {name: _losses(session, model, rows) for name, rows in (("held_out", held_out), ("training", training))}
    said = session.overfits.note(session.step, losses["held_out"], losses["training"])
    found = session.overfits.looks[-1]
    if held_out:
        values = {"val/heldout_loss": found.held_out}
        if training:
            values |= {"val/train_loss": found.training, "val/loss_gap": found.held_out - found.training}
    elif session.recall is not None and training:
        values = {"val/train_loss": found.training}
    values |= recall_values(session)
    if values:
        session.tracker.log(values, session.step)
    if said:
        tell(session, f"{said}. What is trained from here on is learned by heart: stop, or keep the best checkpoint")
    if session.recall is not None:
        _print(session, found.held_out, found.training)
    if session.keeps_best:
        export_best(session, copied=True)
    return found.held_out


def _losses(session: Session, model: torch.nn.Module, rows: list[Row]) -> torch.Tensor:
    """[pairs, draws], at the same draws at every look."""
    config = session.config
    options: dict[str, Any] = {"seed": config.train.seed, "resolution": config.data.resolution}
    options |= {"draws": config.validation.held_out_draws, "batch_size": max(config.train.batch_size, 16)}
    return pair_losses(session.denoiser, model, rows, **options)


def recall_values(session: Session) -> dict[str, float]:
    """What drawings say by now, of all pairs together."""
    if session.recall is None:
        return {}
    rule = session.recall.rule
    own, back = rule.evidence.rates()
    values = {
        "mem/own_image_rate": own,
        "mem/copy_rate": back,
        "mem/recall_bar": rule.evidence.bar,
        "mem/retired_pairs": float(len(rule.condemned)),
        "mem/pairs": float(len(rule.evidence.groups)),
    }
    return {name: value for name, value in values.items() if value == value}


def tell(session: Session, text: str) -> None:
    """A message of the run, once, on the main process."""
    if session.accelerator.is_main_process:
        Console(stderr=True, emoji=False).print(text, style="yellow", markup=False, soft_wrap=True)


def _print(session: Session, held_out: float, training: float) -> None:
    values = recall_values(session)
    losses = f"held-out loss {held_out:.4g}, " if held_out == held_out else ""
    losses += f"training pairs {training:.4g}; " if training == training else ""
    drawn = f"own picture nearest in {values['mem/own_image_rate']:.0%} of drawings, " if len(values) > 4 else ""
    drawn += f"{values['mem/copy_rate']:.0%} come back; " if drawn else ""
    retired = f"{values['mem/retired_pairs']:.0f} of {values['mem/pairs']:.0f} pairs "
    retired += "retired" if session.config.filter.policy == "retire" else "come back too often"
    if session.accelerator.is_main_process:
        text = f"step {session.step}: {losses}{drawn}{retired}"
        Console(stderr=True, emoji=False).print(text, markup=False, soft_wrap=True)
