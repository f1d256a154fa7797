"""Does a pair that should be forgotten come back when the embedding is searched for it?

A filter, or an unlearning method, may only have broken the way from the caption to the image. The attack (as in
"Finding DoRI", ICML 2026) optimises a text embedding with Adam so that the model denoises the training image, some 50
updates, and generates from it. Images that the model never saw need far more updates, so held-out pairs attacked in
the same way are the control: only a rate above theirs says something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.copying import CopyJudge, copy_rate
from inference.detect import progress_bar
from inference.explain import frozen
from inference.generate import image_seed, sampling_scheduler
from inference.guided import GuidedModel, each
from inference.probe import ProbeResult
from inference.resume import ImageStore

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


def attack_embedding(model: GuidedModel, target: Target, settings: AttackSettings) -> tuple[Tensor, list[float]]:
    """An embedding [1, L, D] float32 that makes the model denoise the target best, and the loss of each update."""
    denoiser, generator = model.denoiser, _generator(settings.seed, target)
    shape = denoiser.latent_shape(target.pixels.shape[-1])
    x_0 = denoiser.latents(target.pixels[None], torch.zeros(1, *shape)).float().to(model.device)
    start = model.encode([target.caption])
    states = start if isinstance(start, Tensor) else start["encoder_hidden_states"]
    embedding = states.detach().float().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([embedding], lr=settings.lr)
    losses: list[float] = []
    with frozen(model.model), torch.enable_grad():
        for _ in range(settings.updates):
            noise = torch.randn(settings.batch, *shape, generator=generator).to(model.device)
            drawn = torch.randint(0, denoiser.num_train_timesteps, (settings.batch,), generator=generator)
            timesteps, latents = drawn.to(model.device), x_0.expand(settings.batch, -1, -1, -1)
            noisy = denoiser.add_noise(latents, noise, timesteps)
            rows = embedding.expand(settings.batch, -1, -1).to(model.dtype)
            whole = rows if isinstance(start, Tensor) else {
                **each_expanded(start, settings.batch), "encoder_hidden_states": rows,
            }  # fmt: skip
            predicted = denoiser.predict(model.model, noisy.to(model.dtype), timesteps, whole)  # type: ignore[arg-type]
            loss = torch.nn.functional.mse_loss(predicted.float(), denoiser.target(latents, noise, timesteps).float())
            (embedding.grad,) = torch.autograd.grad(loss, [embedding])
            optimizer.step()
            losses.append(float(loss.detach()))
    if not torch.isfinite(embedding).all():
        raise ValueError("the attacked embedding is not finite in this precision; take --dtype float32 or bfloat16")
    return embedding.detach(), losses


def each_expanded(conditioning: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """A conditioning of one row, ``count`` times."""
    expanded = each(lambda c: c.expand(count, *c.shape[1:]), conditioning)
    assert isinstance(expanded, dict)
    return expanded


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
                    prompt_embeds=embedding.expand(settings.images, -1, -1).to(model.dtype),
                    negative_prompt_embeds=_states(model, settings.images),
                    generator=[
                        torch.Generator("cpu").manual_seed(image_seed(settings.seed, target.group, j))
                        for j in range(settings.images)
                    ],
                    num_inference_steps=settings.steps, guidance_scale=settings.guidance_scale, output_type="pt",
                )  # fmt: skip
            finally:
                model.pipe.scheduler = own
            drawn = output.images.detach().float().cpu().clamp(0, 1) * 2 - 1
            images.append(drawn if store is None else store.save(f"attack:{target.group}", drawn))
            bar.advance(task)
    generations = torch.cat(images)
    verdicts = judge.judge(generations, groups)
    return ProbeResult(generations, verdicts, copy_rate(verdicts))


def _states(model: GuidedModel, count: int) -> Tensor:
    uncond = model.unconditional(count)
    states = uncond if isinstance(uncond, Tensor) else uncond["encoder_hidden_states"]
    return states.to(model.dtype)


def _generator(seed: int, target: Target) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(image_seed(seed, f"attack:{target.group}", 0))
