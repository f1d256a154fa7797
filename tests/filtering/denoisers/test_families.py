"""Every family's adapter says what its diffusers pipeline does, and all of them agree in epsilon space."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.filtering.denoisers.fingerprint import model_hashes
from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from memsieve.filtering.denoisers.spaces import RectifiedFlow
from memsieve.filtering.denoisers.stable_diffusion import StableDiffusionDenoiser
from tests.tiny_models import TINY_FAMILIES, tiny_family

Folder = Callable[[str], Path]
PROMPTS = ["cat dog", "red hat on a mat"]


def pipe_options(pipe: Any, scale: float) -> dict[str, Any]:
    """How the family's pipeline is told to guide by ``scale``, and to leave prompt and size alone."""
    names = inspect.signature(type(pipe).__call__).parameters
    found: dict[str, Any] = {name: False for name in ("use_resolution_binning", "clean_caption") if name in names}
    if "true_cfg_scale" in names and not pipe.transformer.config.guidance_embeds:
        return {**found, "true_cfg_scale": scale, "negative_prompt": ""}
    return {**found, "guidance_scale": scale}


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_a_prompt_and_its_embeddings_give_the_same_image(name: str, family_folder: Folder) -> None:
    """Encoders, unconditional, pooled embeddings, masks, time ids, packing: all as the pipeline has them."""
    pipe = DiffusionPipeline.from_pretrained(family_folder(name))
    pipe.set_progress_bar_config(disable=True)
    denoiser = open_denoiser(str(family_folder(name)))
    options: dict[str, Any] = {"num_inference_steps": 3, "height": 16, "width": 16, "output_type": "pt"}
    noise = torch.randn(2, *denoiser.latent_shape(16), generator=torch.Generator().manual_seed(0))
    cond = denoiser.conditioning(PROMPTS)
    uncond = None if denoiser.distilled else denoiser.unconditional(2)
    arguments = denoiser.call_arguments(cond, uncond, 3.0, noise)
    expected = pipe(PROMPTS, latents=arguments["latents"], **pipe_options(pipe, 3.0), **options).images
    assert expected.std() > 0.05 and torch.allclose(pipe(**arguments, **options).images, expected, atol=1e-5)
    if uncond is not None:
        unguided = pipe(**denoiser.call_arguments(cond, None, 3.0, noise), **options).images
        assert not torch.allclose(unguided, expected, atol=1e-4), "guidance does something"


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_the_network_is_called_as_the_pipeline_calls_it(name: str) -> None:
    """The first call of a sampling pipeline, read back and repeated by ``predict``, gives the same prediction."""
    pipe = tiny_family(name)
    denoiser, calls = denoiser_of(pipe), []
    hook = denoiser.model.register_forward_hook(
        lambda module, args, kwargs, output: calls.append((args, kwargs, output)), with_kwargs=True
    )
    pipe(PROMPTS, num_inference_steps=2, height=16, width=16, output_type="latent", **pipe_options(pipe, 3.0))
    hook.remove()
    args, kwargs, output = calls[0]
    noisy, timestep, conditioning = denoiser.read_call(args, kwargs)
    assert noisy.shape[1:] == denoiser.latent_shape(16) and len(noisy) == len(conditioning)
    alone = len(calls) == 2  # one call a step: both branches in a row, or none
    assert len(noisy) == (4 if alone and denoiser.distilled is None else 2)
    assert denoiser.separate_branches or alone
    if not denoiser.distilled and alone:
        first, second = noisy.chunk(2)
        assert torch.equal(first, second)
        unconditional = denoiser.unconditional(2).encoder_hidden_states
        assert torch.allclose(conditioning.encoder_hidden_states[:2], unconditional, atol=1e-6)
    times = timestep.expand(len(noisy)) if timestep.ndim == 0 else timestep
    if denoiser.config.get("guidance_embeds"):
        type(denoiser).embedded_guidance, kept = 3.0, type(denoiser).embedded_guidance
    try:
        with torch.no_grad():
            ours = denoiser.predict(denoiser.model, noisy, times, conditioning)
    finally:
        if denoiser.config.get("guidance_embeds"):
            type(denoiser).embedded_guidance = kept
    theirs = output[0]
    if theirs.ndim == 3:  # packed
        theirs = denoiser._unpack(theirs, *noisy.shape[-2:])
    assert torch.allclose(ours, theirs[:, : ours.shape[1]], atol=1e-6) and ours.std() > 0.05


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_latents_are_those_that_the_pipeline_decodes(name: str) -> None:
    """encode -> latents -> the pipeline's own scaling back: what went into the VAE's decoder."""
    pipe = tiny_family(name)
    denoiser = denoiser_of(pipe)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = torch.randn(2, *denoiser.latent_shape(16), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels).latent_dist
    raw = posterior.mean + posterior.std * noise
    shift = pipe.vae.config.get("shift_factor") or 0.0
    latents = denoiser.latents(pixels, noise)
    assert torch.allclose(latents / pipe.vae.config.scaling_factor + shift, raw, atol=1e-5) and latents.std() > 0.01
    assert (shift > 0) == (name in ("sd3", "flux", "flux_guided"))


def test_sdxl_without_a_prompt_is_zeros_unless_the_pipeline_says_otherwise() -> None:
    pipe = tiny_family("sdxl")
    found = denoiser_of(pipe).conditioning(["", "cat"])
    assert found.pooled is not None and not found.encoder_hidden_states[0].any() and not found.pooled[0].any()
    assert found.encoder_hidden_states[1].any() and found.pooled[1].any()
    pipe.register_to_config(force_zeros_for_empty_prompt=False)
    assert denoiser_of(pipe).unconditional(1).encoder_hidden_states.any()


def test_sd3_without_its_t5(tmp_path: Path) -> None:
    pipe = tiny_family("sd3")
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained(tmp_path / "m")
    denoiser = open_denoiser(str(tmp_path / "m"))
    found = denoiser.conditioning(["cat"])
    expected = pipe.encode_prompt("cat", None, None, device="cpu")
    assert torch.allclose(found.encoder_hidden_states, expected[0], atol=1e-6) and len(denoiser.text_layout()) == 2
    assert found.pooled is not None and torch.allclose(found.pooled, expected[2], atol=1e-6)
    assert type(denoiser.pipeline()).__name__ == "StableDiffusion3Pipeline"


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_export_and_hash_count_every_part(name: str, family_folder: Folder, tmp_path: Path) -> None:
    denoiser = open_denoiser(str(family_folder(name)))
    hashes = model_hashes(denoiser)
    assert {part for part in type(denoiser).parts if getattr(denoiser, part, denoiser.model) is not None} <= set(hashes)
    with torch.no_grad():
        next(denoiser.model.parameters()).add_(1e-3)
    denoiser.export(tmp_path / "out", denoiser.model)
    changed = model_hashes(open_denoiser(str(tmp_path / "out")))
    network = "unet" if "unet" in hashes else "transformer"
    assert {part for part in hashes if hashes[part] != changed[part]} == {network}
    out, start = DiffusionPipeline.from_pretrained(tmp_path / "out"), tiny_family(name)
    assert type(out) is type(start) and type(out.scheduler) is type(start.scheduler), "it samples as before"
    configs = [{k: v for k, v in p.scheduler.config.items() if not k.startswith("_")} for p in (out, start)]
    assert configs[0] == configs[1]


# -- epsilon space -----------------------------------------------------------------------------------------------------


class FlowOnUNet(StableDiffusionDenoiser):
    """A flow model in the shape of Stable Diffusion, so that one network can be all four parametrisations."""

    space_class = RectifiedFlow


class Wrapped(torch.nn.Module):
    """The same noise estimate, given out as another prediction of the same (noisy, t)."""

    def __init__(self, network: torch.nn.Module, kind: str, alphas: torch.Tensor) -> None:
        super().__init__()
        self.network, self.kind, self.alphas = network, kind, alphas
        self.config = network.config

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, states: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        epsilon = self.network(noisy, t, states).sample
        if self.kind == "flow":
            s = (t / 1000).view(-1, 1, 1, 1)
            return ((epsilon - noisy) / (1 - s),)
        alpha = self.alphas[t.long()].sqrt().view(-1, 1, 1, 1)
        sigma = (1 - alpha**2).sqrt()
        if self.kind == "v_prediction":
            return ((epsilon - sigma * noisy) / alpha,)
        return ((noisy - sigma * epsilon) / alpha,) if self.kind == "sample" else (epsilon,)


def magnitude(denoiser: Any, noisy: torch.Tensor, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """In epsilon space, by converting both predictions, and by scaling their difference."""
    states = denoiser.conditioning(PROMPTS), denoiser.unconditional(2)
    with torch.no_grad():
        cond, uncond = (denoiser.predict(denoiser.model, noisy, t, s) for s in states)
    converted = [denoiser.to_epsilon(p, noisy, t) for p in (cond, uncond)]
    native = (cond - uncond).flatten(1).norm(dim=1)
    return (converted[0] - converted[1]).flatten(1).norm(dim=1), native * denoiser.epsilon_factor(t).float()


@pytest.mark.parametrize("t", [60.0, 400.0, 900.0])
def test_one_network_in_four_parametrisations_has_one_magnitude(t: float) -> None:
    pipe = tiny_family("sd")
    alphas = pipe.scheduler.alphas_cumprod
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {}
    for kind in ("epsilon", "v_prediction", "sample", "flow"):
        other = tiny_family("sd", **({} if kind == "flow" else {"prediction_type": kind}))
        if kind == "flow":
            other.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        denoiser = (FlowOnUNet if kind == "flow" else StableDiffusionDenoiser).from_pipeline(other)
        denoiser.model = Wrapped(other.unet, kind, alphas)
        assert denoiser.prediction_type == kind
        times = torch.full((2,), t) if kind == "flow" else torch.full((2,), int(t))
        found[kind] = magnitude(denoiser, noisy, times)
    reference = found["epsilon"][0]
    assert reference.min() > 0.05, "a magnitude of zero would prove nothing"
    for kind, values in found.items():
        for value in values:
            assert torch.allclose(value, reference, rtol=1e-4), kind


def test_flow_at_its_start_says_nothing_in_epsilon_space() -> None:
    denoiser = denoiser_of(tiny_family("sd3"))
    t = denoiser.timesteps_at(torch.arange(1000))
    assert float(t[-1]) == 1000.0 and (t[1:] > t[:-1]).all(), "noise grows with the position, up to s = 1"
    factor = denoiser.epsilon_factor(t)
    assert float(factor[-1]) == 0.0 and torch.allclose(factor, 1 - t.double() / 1000)
    noise, x_0 = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    some = denoiser.timesteps_at(torch.tensor([10, 700]))
    noisy = denoiser.add_noise(x_0, noise, some)
    perfect = denoiser.target(x_0, noise, some)
    assert torch.allclose(denoiser.to_epsilon(perfect, noisy, some), noise, atol=1e-5)


def test_timesteps_of_flow_are_the_schedulers_shifted_ones() -> None:
    space = RectifiedFlow(dict(FlowMatchEulerDiscreteScheduler(shift=3.0).config))
    t = space.timesteps_at(torch.arange(1000))
    uniform = torch.arange(1, 1001) / 1000
    assert torch.allclose(t / 1000, 3 * uniform / (1 + 2 * uniform), atol=1e-6)
    plain = space.timesteps_at(torch.randint(0, 1000, (4000,), generator=torch.Generator().manual_seed(0)))
    space.draw_logit_normal(0.0, 1.0)
    drawn = space.timesteps_at(torch.randint(0, 1000, (4000,), generator=torch.Generator().manual_seed(0)))
    from diffusers.training_utils import compute_density_for_timestep_sampling

    u = compute_density_for_timestep_sampling(
        "logit_normal", 4000, 0.0, 1.0, generator=torch.Generator().manual_seed(1)
    )
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0).timesteps[(u * 1000).long()]
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert float(drawn.quantile(q)) == pytest.approx(float(theirs.quantile(q)), abs=25.0)
    assert abs(float(plain.quantile(0.05)) - float(theirs.quantile(0.05))) > 60, "uniform is another density"
    levels = space.timesteps_at(torch.arange(1000))
    assert (levels[1:] >= levels[:-1]).all() and float(levels[-1]) <= 1000


def test_conditioning_as_a_whole() -> None:
    one = Conditioning(torch.randn(3, 5, 4), torch.randn(3, 2), torch.ones(3, 5, dtype=torch.long))
    both = Conditioning.cat([one, one.rows(torch.tensor([2, 0]))])
    assert len(both) == 5 and both.pooled is not None and torch.equal(both.pooled[3], one.pooled[2])  # type: ignore[index]
    half = both.to(dtype=torch.bfloat16)
    assert half.encoder_hidden_states.dtype == torch.bfloat16 and half.attention_mask.dtype == torch.long  # type: ignore[union-attr]
    changed = one.where([False, True, False], one.rows(slice(0, 1)))
    assert torch.equal(changed.encoder_hidden_states[1], one.encoder_hidden_states[0])
    assert torch.equal(changed.encoder_hidden_states[2], one.encoder_hidden_states[2])
    assert set(one.embeddings) == {"encoder_hidden_states", "pooled"}
    assert set(Conditioning(torch.zeros(1, 2, 3)).embeddings) == {"encoder_hidden_states"}
