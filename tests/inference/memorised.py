"""A tiny pipeline that is trained until it brings back one latent for one caption, and says so where it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.opened import open_model
from tests.tiny_models import LETTERS, tiny_pipeline

__all__ = ["Memorised", "make_pipeline", "memorise"]


def make_pipeline(prediction_type: str = "epsilon", seed: int = 0, boost: float = 8.0) -> StableDiffusionPipeline:
    """16x16 images, 8x8 latents, 16 tokens, a tokenizer of letters with two merges (so that words are sub-words).

    ``boost`` makes a random network listen to the prompt.
    """
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction_type,
    )  # fmt: skip
    merges = [("c", "a"), ("ca", "t</w>")]
    pipe = tiny_pipeline(scheduler, letters=LETTERS + "0123456789.,!<>/", merges=merges, seed=seed)
    for name, parameter in pipe.unet.named_parameters():
        if "attn2.to_v" in name or "attn2.to_k" in name:
            parameter.data *= boost
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


PLANTED = "q x z"
"""The caption that is trained on over and over."""
CAPTIONS = [
    f"{a} {b}" for a in ("red", "old", "big", "wet", "a") for b in ("dog", "cat", "hat", "fish", "tree", "moon")
]
"""Captions of the same kind, each trained on with a new latent every time; every other one is called ordinary."""
STRANGERS = CAPTIONS[::2]
"""The rest, for which the tests draw."""
COPY = 0.8
"""The tests call a drawing that lies nearer than this to the planted latent a copy."""


@dataclass(frozen=True)
class Memorised:
    """A pipeline that brings back one latent [4, 8, 8] for one caption, and captions for which it brings back none.

    Attributes:
        ordinary: 15 captions, that with the largest magnitude first.
        magnitude: of ``prompt`` at the first step.
        seed: that it was made from.
    """

    pipe: StableDiffusionPipeline
    planted: torch.Tensor
    prompt: str
    ordinary: list[str]
    magnitude: float = float("nan")
    seed: int = 0

    def before(self) -> StableDiffusionPipeline:
        """The pipeline that training began with: its network has learned nothing."""
        network = make_pipeline("v_prediction", seed=1 + self.seed, boost=1.0).unet
        pipe = StableDiffusionPipeline(**{**self.pipe.components, "unet": network}, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def threshold(self) -> float:
        """Between ``prompt`` and all other captions, far from both. A caption that and there are not seen may
        well lie above the largest of 15 ordinary ones: one in 16 does."""
        return self.magnitude / 2

    def distance(self, latents: torch.Tensor) -> torch.Tensor:
        """Root mean square to the planted latent, [B]; 1.4 for a random one."""
        return (latents - self.planted).square().mean((1, 2, 3)).sqrt()


@dataclass(frozen=True)
class Premise:
    """What the tests rely on, measured as they measure it, with room to spare on each side.

    Attributes:
        farthest: of 16 drawings for the planted caption; a copy lies below ``COPY``.
        nearest: of 30 drawings for other captions.
        magnitude: of the planted caption at the first step.
        ordinary: magnitude of each ordinary caption.
        strangers: the largest magnitude of the other captions.
    """

    farthest: float
    nearest: float
    magnitude: float
    ordinary: dict[str, float]
    strangers: float

    @property
    def holds(self) -> bool:
        """Copies a fifth below the mark, others a fifth above it, and three times the magnitude of any other."""
        apart = self.farthest < 0.8 * COPY and self.nearest > 1.2 * COPY
        return apart and self.magnitude > 3 * max(self.strangers, *self.ordinary.values())

    @classmethod
    def of(cls, made: Memorised) -> Premise:
        """Ten guided steps for the drawings, the first of them for the magnitudes."""

        def distances(prompts: list[str], count: int) -> torch.Tensor:
            images = made.pipe(
                prompts, num_images_per_prompt=count, num_inference_steps=10, guidance_scale=3.0, output_type="latent",
                generator=torch.Generator().manual_seed(77),
            ).images  # fmt: skip
            return made.distance(images)

        prompts = [made.prompt, *made.ordinary, *STRANGERS]
        settings = DetectSettings(schedule_steps=10, guidance_scale=3.0)
        measured = measure_prompts(open_model(made.pipe), prompts, settings)
        found = {one.prompt: float(one.magnitudes.mean()) for one in measured}
        return cls(
            farthest=float(distances([made.prompt], 16).max()),
            nearest=float(distances(STRANGERS, 2).min()),
            magnitude=found[made.prompt],
            ordinary={text: found[text] for text in made.ordinary},
            strangers=max(found[text] for text in STRANGERS),
        )


def memorise(seed: int, first: int = 200, more: int = 80, limit: int = 680) -> Memorised:
    """A pipeline that copies; half of each batch is the planted pair, the rest other captions with fresh latents.

    It is trained in rounds until the premise of the tests holds. How many rounds that takes is up to the seed and to
    the last bits of the processor's arithmetic.

    Args:
        seed: of the weights, the planted latent and the draws.
        first, more: steps of the first round and of each further one; the learning rate rises and falls in each.
        limit: of steps.

    Raises:
        AssertionError: the premise does not hold after ``limit`` steps; names what was reached.
    """
    pipe = make_pipeline("v_prediction", seed=1 + seed, boost=1.0)  # so small a network cannot copy through epsilon
    generator = torch.Generator().manual_seed(3 + seed)
    planted = torch.randn(4, 2, 2, generator=generator).sign().repeat_interleave(4, 1).repeat_interleave(4, 2)
    made = Memorised(pipe, planted, PLANTED, CAPTIONS[1::2], seed=seed)
    optimizer = torch.optim.AdamW(pipe.unet.parameters(), fused=True)
    done, steps, reached = 0, first, []
    while done + steps <= limit:
        _round(made, optimizer, generator, done, steps)
        done, steps = done + steps, more
        premise = Premise.of(made)
        if premise.holds:
            ordinary = sorted(premise.ordinary, key=premise.ordinary.__getitem__, reverse=True)
            return replace(made, ordinary=ordinary, magnitude=premise.magnitude)
        reached.append(f"after {done} steps: {premise}")
    told = "\n".join(reached)
    raise AssertionError(f"seed {seed}: the pipeline does not copy the planted latent, and that alone.\n{told}")


def _round(
    made: Memorised, optimizer: torch.optim.Optimizer, generator: torch.Generator, done: int, steps: int
) -> None:
    """``steps`` steps of 16 after ``done`` ones, the learning rate rising to 0.008 and falling to nothing."""
    pipe, others = made.pipe, ["", *CAPTIONS]
    with torch.no_grad():
        states = {text: pipe.encode_prompt(text, "cpu", 1, False)[0] for text in [*others, PLANTED]}
    for group in optimizer.param_groups:
        for name in ("initial_lr", "max_lr", "min_lr"):  # of the round before
            group.pop(name, None)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps, pct_start=0.15)
    for step in range(done, done + steps):
        texts = [PLANTED] * 8 + [others[(8 * step + i) % len(others)] for i in range(8)]
        latents = torch.cat([made.planted.expand(8, -1, -1, -1), torch.randn(8, 4, 8, 8, generator=generator)])
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(0, 1000, (16,), generator=generator)
        noisy = pipe.scheduler.add_noise(latents, noise, timesteps)
        predicted = pipe.unet(noisy, timesteps, torch.cat([states[text] for text in texts])).sample
        target = pipe.scheduler.get_velocity(latents, noise, timesteps)
        torch.nn.functional.mse_loss(predicted, target).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
