"""Does a pair that should be forgotten come back when the embedding is searched for it?

A filter, or an unlearning method, may only have broken the way from the caption to the image. The attack (as in
"Finding DoRI", ICML 2026) optimises a text embedding with Adam so that the model denoises the training image, some 50
updates, and generates from it. Images that the model never saw need far more updates, so held-out pairs attacked in
the same way are the control: only a rate above theirs says something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.probe import ProbeResult
from memsieve.inference.copies.rate import copy_rate
from memsieve.inference.generate import image_seed, sampling_scheduler
from memsieve.inference.gradients import check_differentiable, frozen
from memsieve.inference.guided import GuidedModel
from memsieve.inference.progress import progress_bar
from memsieve.inference.resume import ImageStore

__all__ = ["AttackSettings", "Target", "attack_embedding", "attack_pairs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSettings:
    """``updates`` of Adam with ``lr``, each on ``batch`` fresh draws of (t, noise); then ``images`` generations."""

    updates: int = 50
    lr: float = 0.1
    batch: int = 8
    images: int = 3
    steps: int = 20
    guidance_scale: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("updates", "batch", "images", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} = {getattr(self, name)}: must be at least 1")
        if not self.lr > 0:
            raise ValueError(f"--lr = {self.lr:g}: must be above 0")


@dataclass(frozen=True, slots=True)
class Target:
    """A pair to attack: pixels [3, H, W] in [-1, 1]."""

    caption: str
    group: str
    pixels: Tensor


@torch.inference_mode(False)
def attack_embedding(model: GuidedModel, target: Target, settings: AttackSettings) -> tuple[Conditioning, list[float]]:
    """An embedding of one row, float32, that makes the model denoise the target best, and the loss of each update.

    The pooled embedding is searched for too, where the family has one.
    """
    check_differentiable(model.model)
    denoiser, generator = model.denoiser, _generator(settings.seed, target)
    shape = denoiser.latent_shape(target.pixels.shape[-1])
    x_0 = denoiser.latents(target.pixels[None], torch.zeros(1, *shape)).float().to(model.device)
    start = model.encode([target.caption])
    searched = {name: value.detach().float().clone().requires_grad_(True) for name, value in start.embeddings.items()}
    leaves = list(searched.values())
    optimizer = torch.optim.Adam(leaves, lr=settings.lr)
    losses: list[float] = []
    with frozen(model.model), torch.enable_grad():
        for _ in range(settings.updates):
            noise = torch.randn(settings.batch, *shape, generator=generator).to(model.device)
            drawn = torch.randint(0, denoiser.num_train_timesteps, (settings.batch,), generator=generator)
            timesteps = denoiser.timesteps_at(drawn.to(model.device))
            latents = x_0.expand(settings.batch, -1, -1, -1)
            noisy = denoiser.add_noise(latents, noise, timesteps)
            whole = start.with_embeddings(searched).expand(settings.batch).to(dtype=model.dtype)
            predicted = denoiser.predict(model.model, noisy.to(model.dtype), timesteps, whole)
            loss = torch.nn.functional.mse_loss(predicted.float(), denoiser.target(latents, noise, timesteps).float())
            for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves, materialize_grads=True), strict=True):
                leaf.grad = gradient
            optimizer.step()
            losses.append(float(loss.detach()))
    if not all(bool(torch.isfinite(leaf).all()) for leaf in leaves):
        raise ValueError("the attacked embedding is not finite in this precision; take --dtype float32 or bfloat16")
    return start.with_embeddings({name: leaf.detach() for name, leaf in searched.items()}), losses


def attack_pairs(
    model: GuidedModel, targets: Sequence[Target], judge: CopyJudge, settings: AttackSettings, *, progress: bool = True,
    store: ImageStore | None = None,
) -> ProbeResult:  # fmt: skip
    """Attack each target, generate from its embedding, and judge what comes back against all training images.

    ``judge`` must know the targets' groups: for a control, its gallery holds the control images too. With a ``store``
    a target whose images it holds is not attacked again.
    """
    images: list[Tensor] = []
    groups: list[str] = []
    own = model.pipe.scheduler
    with progress_bar(progress) as bar:
        task = bar.add_task("attacking", total=len(targets))
        for target in targets:
            groups += [target.group] * settings.images
            kept = None if store is None else store.load(f"attack:{target.group}")
            if kept is not None:
                images.append(kept)
                bar.advance(task)
                continue
            embedding, _ = attack_embedding(model, target, settings)
            model.pipe.scheduler = sampling_scheduler(model.pipe, model.scheduler_name)
            try:
                output = model.pipe(
                    **_arguments(model, embedding, settings),
                    height=target.pixels.shape[-1],
                    width=target.pixels.shape[-1],
                    generator=[
                        torch.Generator("cpu").manual_seed(image_seed(settings.seed, target.group, j))
                        for j in range(settings.images)
                    ],
                    num_inference_steps=settings.steps, output_type="pt",
                )  # fmt: skip
            finally:
                model.pipe.scheduler = own
            drawn = output.images.detach().float().cpu().clamp(0, 1) * 2 - 1
            images.append(drawn if store is None else store.save(f"attack:{target.group}", drawn))
            bar.advance(task)
    generations = torch.cat(images)
    verdicts = judge.judge(generations, groups)
    return ProbeResult(generations, verdicts, copy_rate(verdicts))


def _arguments(model: GuidedModel, embedding: Conditioning, settings: AttackSettings) -> dict[str, Any]:
    cond = embedding.expand(settings.images).to(dtype=model.dtype)
    uncond = model.unconditional(settings.images).to(dtype=model.dtype)
    return model.denoiser.call_arguments(cond, uncond, settings.guidance_scale)


def _generator(seed: int, target: Target) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(image_seed(seed, f"attack:{target.group}", 0))
