"""A family's own pipeline of the parts: what it is made of, called with, and written as."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from memsieve.filtering.denoisers.parts import NETWORKS
from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from tests.tiny_models import recent_slow, side_of, tiny_family

Folder = Callable[[str], Path]


@pytest.mark.parametrize("name", recent_slow())
def test_the_pipeline_is_made_of_the_parts_with_another_network_where_one_is_given(name: str) -> None:
    denoiser = denoiser_of(tiny_family(name))
    plain, other = denoiser.pipeline(), copy.deepcopy(denoiser.model)
    given = denoiser.pipeline(other)
    (network,) = set(NETWORKS) & plain.components.keys()
    assert plain.components[network] is denoiser.model and given.components[network] is other
    assert all(given.components[part] is getattr(denoiser, part) for part in denoiser.parts if part != network)
    assert given.progress_bar([1]).disable


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "pixart"])
def test_a_call_without_an_unconditional_prompt_is_not_guided(name: str) -> None:
    denoiser = denoiser_of(tiny_family(name))
    cond = denoiser.conditioning(["cat"])
    noise = torch.zeros(1, *denoiser.latent_shape(16))
    given = denoiser.call_arguments(cond, None, 7.5, noise)
    assert given["guidance_scale"] == 1.0 and given["prompt_embeds"] is cond.encoder_hidden_states
    assert torch.equal(given["latents"], noise) and "negative_prompt_embeds" not in given
    assert ("pooled_prompt_embeds" in given) == (cond.pooled is not None)
    uncond = denoiser.unconditional(1)
    given = denoiser.call_arguments(cond, uncond, 7.5)
    assert given["guidance_scale"] == 7.5 and given["negative_prompt_embeds"] is uncond.encoder_hidden_states
    assert "latents" not in given


@pytest.mark.parametrize("name", recent_slow())
def test_each_sampler_is_a_new_one_and_draws_nothing_itself(name: str) -> None:
    """Two drawings at once do not count each other's steps, and their noise is the latents' alone."""
    denoiser = denoiser_of(tiny_family(name))
    first, second = denoiser.sampler(), denoiser.sampler()
    denoiser.set_timesteps(first, 2, side_of(name), torch.device("cpu"))
    denoiser.set_timesteps(second, 5, side_of(name), torch.device("cpu"))
    assert (len(first.timesteps), len(second.timesteps)) == (2, 5)
    prediction, sample = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    first.step(prediction, first.timesteps[0], sample)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_export_holds_the_given_weights_as_safetensors_and_says_what_they_predict(
    family_folder: Folder, tmp_path: Path
) -> None:
    denoiser = open_denoiser(str(family_folder("sd")), "v_prediction")
    trained = copy.deepcopy(denoiser.model)
    with torch.no_grad():
        trained.conv_in.weight.add_(1.0)
    denoiser.export(tmp_path, trained)
    assert not list(tmp_path.rglob("*.bin"))
    written = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(written["conv_in.weight"], trained.conv_in.weight)
    scheduler = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert (scheduler["_class_name"], scheduler["prediction_type"]) == ("DDIMScheduler", "v_prediction")
