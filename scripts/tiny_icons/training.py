"""How the base is trained: in stages that go on where they were stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from scripts.base_model.models import TOKENS
from scripts.base_model.training import learning_share, picture_loss, thinned

__all__ = ["Stage", "decoder_loss", "encode_places", "noise_loss", "run", "vae_loss"]

SHIFT: Final = 4
"""Pixels that a picture is moved by at most: in one place each, pictures are learned by heart."""
KL_WEIGHT: Final = 1e-6
SAVE_EVERY: Final = 100


@dataclass(slots=True)
class Stage:
    """One part of the training.

    Attributes:
        name: of its file of progress.
        steps: in all.
        lr: the highest learning rate, after a warm-up of 100 steps; a cosine ends at a fiftieth.
        module: its parameters that want gradients are trained.
        loss: of one step, with the generator that all its draws come from.
        average: decay of an average of the weights, which is what remains of the stage; None keeps the weights.
        minutes: spent so far, in all runs.
    """

    name: str
    steps: int
    lr: float
    module: nn.Module
    loss: Callable[[torch.Generator], Tensor]
    average: float | None = None
    minutes: float = field(default=0.0)


class Average:
    """A running average of weights, faster at first."""

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        self.weights, self.decay = [w.detach().clone() for w in weights], decay

    def update(self, weights: Sequence[Tensor], step: int) -> None:
        """Take in the weights after ``step`` steps."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.weights, [w.detach() for w in weights], share)

    def copy_to(self, weights: Sequence[Tensor]) -> None:
        """Put the average in the place of ``weights``."""
        with torch.no_grad():
            for weight, mean in zip(weights, self.weights, strict=True):
                weight.copy_(mean)


def run(stage: Stage, folder: Path, seed: int) -> None:
    """Train a stage to its end, or go on with it; what ``module`` holds afterwards is its result.

    Progress is kept in ``folder`` every hundred steps, so that a build that is stopped goes on by the same command.
    """
    learned = [p for p in stage.module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=stage.lr, weight_decay=0.01)
    average = Average(learned, stage.average) if stage.average is not None else None
    generator = torch.Generator().manual_seed(seed)
    file = folder / f"{stage.name}.pt"
    first = _resume(file, stage, learned, optimizer, average, generator) if file.is_file() else 0
    stage.module.train()
    spent, begun = stage.minutes, time.monotonic()
    with _bar(stage.name) as (progress, bar):
        progress.update(bar, total=stage.steps, completed=first)
        for step in range(first, stage.steps):
            for group in optimizer.param_groups:
                group["lr"] = stage.lr * learning_share(step, stage.steps)
            loss = stage.loss(generator)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            if average is not None:
                average.update(learned, step)
            progress.update(bar, advance=1, loss=f"{loss.item():.4f}")
            stage.minutes = spent + (time.monotonic() - begun) / 60
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == stage.steps:
                _save(file, stage, step + 1, learned, optimizer, average, generator)
    if average is not None:
        average.copy_to(learned)
    stage.module.eval()


def _save(
    file: Path, stage: Stage, step: int, learned: list[Any], optimizer: Any, average: Average | None, generator: Any
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.new")
    torch.save(
        {
            "step": step,
            "steps": stage.steps,
            "minutes": stage.minutes,
            "weights": [weight.detach() for weight in learned],
            "optimizer": optimizer.state_dict(),
            "average": average.weights if average is not None else [],
            "generator": generator.get_state(),
        },
        unfinished,
    )
    unfinished.replace(file)


def _resume(
    file: Path, stage: Stage, learned: list[Any], optimizer: Any, average: Average | None, generator: Any
) -> int:
    state = torch.load(file, weights_only=True)
    if state["steps"] != stage.steps:
        raise ValueError(f"'{file}' is of {state['steps']} steps, not {stage.steps}; remove it to train anew")
    with torch.no_grad():
        for weight, saved in zip(learned, state["weights"], strict=True):
            weight.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    if average is not None:
        average.weights = state["average"]
    generator.set_state(state["generator"])
    stage.minutes = float(state["minutes"])
    return int(state["step"])


def vae_loss(vae: Any, pixels: Tensor, batch: int) -> Callable[[torch.Generator], Tensor]:
    """Of the whole autoencoder on uint8 ``pixels`` [N, 3, SIZE, SIZE], moved at random."""

    def loss(generator: torch.Generator) -> Tensor:
        images = _moved(_batch(pixels, batch, generator), generator)
        posterior = vae.encode(images).latent_dist
        difference = vae.decode(posterior.sample(generator)).sample - images
        kl: Tensor = posterior.kl().mean()
        return picture_loss(difference) + KL_WEIGHT * kl

    return loss


def decoder_loss(vae: Any, pixels: Tensor, latents: Tensor, batch: int) -> Callable[[torch.Generator], Tensor]:
    """Of the decoder alone, which latents that a UNet will learn do not move under.

    Args:
        vae: its encoder stays.
        pixels: uint8 [N, 3, SIZE, SIZE].
        latents: [places, N, 4, h, w] of the pictures in all places, in the order of ``moves``; not scaled.
        batch: pictures a step.
    """
    spread, moves = latents.std(), list(_moves())

    def loss(generator: torch.Generator) -> Tensor:
        place = int(torch.randint(len(moves), (1,), generator=generator))
        rows = torch.randint(len(pixels), (batch,), generator=generator)
        clean = latents[place, rows].float()
        # A UNet's latents are never quite those of an image.
        noised = clean + 0.05 * spread * torch.randn(clean.shape, generator=generator)
        return picture_loss(vae.decode(noised).sample - _shifted(_floats(pixels[rows]), *moves[place]))

    return loss


def noise_loss(
    text: Any, tokenizer: Any, unet: Any, latents: Tensor, captions: Sequence[str], batch: int
) -> Callable[[torch.Generator], Tensor]:
    """Of text encoder and UNet together, predicting the noise; each visit takes one place of its picture.

    ``latents``: [places, N, 4, h, w], scaled.
    """
    from diffusers import DDPMScheduler

    noise_scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)

    def loss(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(captions), (batch,), generator=generator)
        said = [thinned(captions[row], generator) for row in rows.tolist()]
        tokens = tokenizer(said, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
        place = torch.randint(len(latents), (batch,), generator=generator)
        clean = latents[place, rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(1000, (batch,), generator=generator)
        noisy = noise_scheduler.add_noise(clean, noise, timesteps)
        hidden = text(tokens.input_ids).last_hidden_state
        predicted: Tensor = unet(noisy, timesteps, encoder_hidden_states=hidden).sample
        return (predicted - noise).square().mean()

    return loss


@torch.no_grad()
def encode_places(vae: Any, pixels: Tensor) -> Tensor:
    """Mean latents of all pictures in all places, float16 [places, N, 4, h, w], not scaled."""
    return torch.stack(
        [
            torch.cat([vae.encode(_shifted(_floats(p), *move)).latent_dist.mean.half() for p in pixels.split(64)])
            for move in _moves()
        ]
    )


def _moves() -> Iterator[tuple[int, int]]:
    """(down, right) of nine places."""
    places = (0, SHIFT, 2 * SHIFT)
    return ((down, right) for down in places for right in places)


def _shifted(images: Tensor, down: int, right: int) -> Tensor:
    side = images.shape[-1]
    padded = F.pad(images, (SHIFT,) * 4, value=1.0)
    return padded[..., down : down + side, right : right + side]


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    down, right = torch.randint(0, 2 * SHIFT + 1, (2,), generator=generator).tolist()
    return _shifted(images, down, right)


def _batch(pixels: Tensor, batch: int, generator: torch.Generator) -> Tensor:
    return _floats(pixels[torch.randint(len(pixels), (batch,), generator=generator)])


def _floats(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


@contextmanager
def _bar(name: str) -> Iterator[tuple[Progress, Any]]:
    """A bar with loss, rate and ETA."""
    counted = TextColumn("{task.completed:.0f}/{task.total:.0f} loss {task.fields[loss]}")
    columns = (TextColumn(name), BarColumn(), counted, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    with Progress(*columns) as progress:
        yield progress, progress.add_task("", total=1, loss="")
