"""Tiny random Stable Diffusion pipelines whose prompts matter: references in these tests must not be zero."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from tests.tiny_models import LETTERS, tiny_pipeline


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


@pytest.fixture(scope="session")
def build_pipeline() -> Callable[..., StableDiffusionPipeline]:
    return make_pipeline


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


PLANTED = "q x z"
"""The caption that ``memorised`` was trained on over and over."""
CAPTIONS = [
    f"{a} {b}" for a in ("red", "old", "big", "wet", "a") for b in ("dog", "cat", "hat", "fish", "tree", "moon")
]
"""Captions of the same kind: every other one is trained on, with a new latent each time; the rest are ordinary."""


@dataclass(frozen=True)
class Memorised:
    """A pipeline that brings back one latent [4, 8, 8] for one caption, and captions that it was never trained on."""

    pipe: StableDiffusionPipeline
    planted: torch.Tensor
    prompt: str
    ordinary: list[str]

    def distance(self, latents: torch.Tensor) -> torch.Tensor:
        """Root mean square to the planted latent, [B]; 1.4 for a random one."""
        return (latents - self.planted).square().mean((1, 2, 3)).sqrt()


@pytest.fixture(scope="session")
def memorised(pytestconfig: pytest.Config) -> Memorised:
    """Half of each batch is the planted pair, the other half other captions, some of them empty, with fresh latents.

    The weights are kept in pytest's cache under a name made of this file and the version of torch.
    """
    pipe = make_pipeline("v_prediction", seed=1, boost=1.0)  # so small a network cannot copy through epsilon
    generator = torch.Generator().manual_seed(3)
    planted = torch.randn(4, 2, 2, generator=generator).sign().repeat_interleave(4, 1).repeat_interleave(4, 2)
    name = hashlib.sha256(Path(__file__).read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    folder = pytestconfig.cache.mkdir("memorised") if pytestconfig.cache is not None else None
    if folder is None or not (folder / f"{name}.safetensors").is_file():
        _memorise(pipe, planted, generator)
        if folder is not None:
            temporary = folder / f"{name}.{os.getpid()}"
            save_file(pipe.unet.state_dict(), temporary)
            os.replace(temporary, folder / f"{name}.safetensors")
    else:
        pipe.unet.load_state_dict(load_file(folder / f"{name}.safetensors"))
    return Memorised(pipe, planted, PLANTED, CAPTIONS[1::2])


def _memorise(
    pipe: StableDiffusionPipeline, planted: torch.Tensor, generator: torch.Generator, steps: int = 160
) -> None:
    others = ["", *CAPTIONS[::2]]
    with torch.no_grad():
        states = {text: pipe.encode_prompt(text, "cpu", 1, False)[0] for text in [*others, PLANTED]}
    optimizer = torch.optim.AdamW(pipe.unet.parameters(), lr=8e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps, pct_start=0.15)
    for step in range(steps):
        texts = [PLANTED] * 8 + [others[(8 * step + i) % len(others)] for i in range(8)]
        latents = torch.cat([planted.expand(8, -1, -1, -1), torch.randn(8, 4, 8, 8, generator=generator)])
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(0, 1000, (16,), generator=generator)
        noisy = pipe.scheduler.add_noise(latents, noise, timesteps)
        predicted = pipe.unet(noisy, timesteps, torch.cat([states[text] for text in texts])).sample
        target = pipe.scheduler.get_velocity(latents, noise, timesteps)
        torch.nn.functional.mse_loss(predicted, target).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
