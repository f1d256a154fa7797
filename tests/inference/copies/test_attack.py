"""The embedding attack brings a memorised pair back from another caption, and not one that was never seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memsieve.filtering.denoisers.stable_diffusion import StableDiffusionDenoiser
from memsieve.inference.copies.attack import AttackSettings, Target, attack_embedding, attack_pairs
from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.similarity import PixelL2
from memsieve.inference.guided import GuidedModel
from memsieve.inference.opened import open_model

TINY = Path(__file__).parents[3] / "assets" / "tiny-sd"


class LatentImages(StableDiffusionDenoiser):
    """The adapter of a model whose images are latents: the tiny random VAE would hide what the network does."""

    def latents(self, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return pixels

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        return 4, resolution, resolution


@pytest.mark.trains
def test_the_planted_pair_comes_back_and_a_stranger_does_not(memorised: Any) -> None:
    model = GuidedModel(LatentImages.from_pipeline(memorised.pipe), memorised.pipe)
    stranger = torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(9)).sign()
    stranger = stranger.repeat_interleave(4, 1).repeat_interleave(4, 2)
    settings = AttackSettings(updates=150, batch=8)
    distances, fell = {}, {}
    for name, pixels in (("planted", memorised.planted), ("stranger", stranger)):
        embedding, losses = attack_embedding(model, Target("red dog", name, pixels), settings)
        fell[name] = sum(losses[-10:]) / sum(losses[:10])
        drawn = memorised.pipe(
            prompt_embeds=embedding.encoder_hidden_states, num_inference_steps=10, guidance_scale=1.5,
            output_type="latent", generator=torch.Generator().manual_seed(0),
        ).images  # fmt: skip
        distances[name] = float((drawn - pixels).square().mean().sqrt())
    plain = memorised.pipe(
        "red dog", num_inference_steps=10, guidance_scale=1.5, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert memorised.distance(plain)[0] > 0.8, "the premise: another caption does not bring it"
    assert distances["planted"] < 0.8 < distances["stranger"]
    assert fell["planted"] < 0.5 < fell["stranger"]
    assert all(p.requires_grad for p in memorised.pipe.unet.parameters())


def test_attacked_pairs_are_judged() -> None:
    model = open_model(TINY)
    images = torch.rand(30, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    judge = CopyJudge(PixelL2(), images[:10], [str(i) for i in range(10)])
    judge.calibrate(images[10:])
    settings = AttackSettings(updates=2, images=2, steps=2, batch=2)
    first, again = (attack_embedding(model, Target("a", "3", images[3]), settings)[0] for _ in range(2))
    assert torch.equal(first.encoder_hidden_states, again.encoder_hidden_states), "the same seed, the same attack"
    result = attack_pairs(model, [Target("a", "3", images[3]), Target("b", "4", images[4])], judge, settings)
    assert result.generations.shape == (4, 3, 32, 32) and [v.group for v in result.verdicts] == ["3", "3", "4", "4"]
    assert result.rate.generations == 4 and not torch.equal(result.generations[0], result.generations[1])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="--updates = 0"):
        AttackSettings(updates=0)
    with pytest.raises(ValueError, match="--lr = 0: must be above 0"):
        AttackSettings(lr=0.0)
