"""What an adapter would be wrong for is refused with the reason, and the way out that is named works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)

from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from memsieve.filtering.denoisers.supported import no_beta_schedule
from memsieve.inference.generate import GenerateSettings, generate, load_pipeline, sampling_scheduler
from tests.tiny_models import tiny_family

LEARNED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

MEAN, STD = [-1.6, 0.8, -0.3, 0.2], [8.4, 5.4, 7.6, 4.9]


def with_unet(pipe: Any, **settings: Any) -> Any:
    pipe.register_modules(unet=UNet2DConditionModel.from_config(changed(pipe.unet, settings)))
    return pipe


def changed(part: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Its config with other settings; diffusers notes which ones were left at their defaults, and drops those."""
    return {name: value for name, value in part.config.items() if name != "_use_default_values"} | settings


REFUSED: list[tuple[str, Any, str]] = [
    ("sdxl", EDMDPMSolverMultistepScheduler(), "EDMDPMSolverMultistepScheduler, .*EDM preconditioning.*verify, and pr"),
    ("sdxl", EDMEulerScheduler(prediction_type="v_prediction"), "EDMEulerScheduler, .*EDM preconditioning"),
    ("sdxl", FlowMatchEulerDiscreteScheduler(), r"FlowMatchEulerDiscreteScheduler, which samples a flow-matching"),
    ("sd", FlowMatchEulerDiscreteScheduler(), r"FlowMatchEulerDiscreteScheduler, which samples .*pipe\.scheduler\)$"),
    ("sd", DPMSolverMultistepScheduler(use_flow_sigmas=True), "which samples a flow-matching model"),
    ("pixart", UniPCMultistepScheduler(prediction_type="flow_prediction"), "which samples a flow-matching model"),
    ("sd", EulerDiscreteScheduler(timestep_type="continuous"), "gives the network continuous timesteps"),
    ("sd", HeunDiscreteScheduler(beta_schedule="exp"), "whose beta schedule 'exp' only it knows"),
    (
        "sd3",
        DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0),
        r"DPMSolverMultistepScheduler.*FlowMatchEulerDiscreteScheduler\(shift=3\)",
    ),
]


@pytest.mark.parametrize(("name", "scheduler", "sentence"), REFUSED)
def test_a_scheduler_that_would_be_measured_wrongly_is_refused(name: str, scheduler: Any, sentence: str) -> None:
    pipe = tiny_family(name)
    pipe.register_modules(scheduler=scheduler)
    with pytest.raises(ValueError, match=f"--model: the pipeline comes with .*{sentence}"):
        denoiser_of(pipe)


def test_a_folder_with_such_a_scheduler_is_refused(family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    for name, scheduler in (("sdxl", EDMEulerScheduler()), ("sd", FlowMatchEulerDiscreteScheduler())):
        folder = Path(shutil.copytree(family_folder(name), tmp_path / name))
        scheduler.save_pretrained(folder / "scheduler")
        with pytest.raises(ValueError, match=rf"model\.path: '.*{name}' comes with {type(scheduler).__name__}, which"):
            open_denoiser(str(folder))


def test_sd3_with_the_scheduler_that_the_refusal_names() -> None:
    pipe = tiny_family("sd3")
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    expected = denoiser_of(pipe).timesteps_at(torch.arange(0, 1000, 100))
    pipe.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    assert torch.allclose(denoiser_of(pipe).timesteps_at(torch.arange(0, 1000, 100)), expected)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_schedulers_of_one_schedule_are_all_taken(zero_snr: bool) -> None:
    """Whatever a plain diffusion model is sampled by, its training noise is that of the betas."""
    kinds: list[Any] = [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]
    if not zero_snr:
        kinds += [PNDMScheduler, LMSDiscreteScheduler, HeunDiscreteScheduler, KDPM2DiscreteScheduler, LCMScheduler]
        kinds += [UniPCMultistepScheduler]
    options = {"rescale_betas_zero_snr": True} if zero_snr else {}
    assert [no_beta_schedule(kind(**LEARNED, **options)) for kind in kinds] == [None] * len(kinds)


def test_an_edm_model_is_drawn_with_its_own_scheduler(tmp_path: Path) -> None:
    """What the refusal says: it can be drawn, as verify and probe do, and is then the pipeline's own image."""
    pipe = tiny_family("sdxl")
    pipe.scheduler = EDMDPMSolverMultistepScheduler()
    assert isinstance(sampling_scheduler(pipe, "auto"), EDMDPMSolverMultistepScheduler)
    with pytest.raises(ValueError, match=r"'ddim' does not fit EDMDPMSolverMultistepScheduler.*take 'own'"):
        sampling_scheduler(pipe, "ddim")
    settings = GenerateSettings(steps=2, call={"height": 16, "width": 16})
    drawn = {
        name: generate(pipe, ["cat"], settings=replace(settings, scheduler=name), progress=False)
        for name in ("auto", "own")
    }
    assert torch.equal(drawn["auto"], drawn["own"]) and torch.isfinite(drawn["own"]).all()
    pipe.save_pretrained(tmp_path)
    loaded = generate(load_pipeline(tmp_path), ["cat"], settings=settings, progress=False)
    assert torch.allclose(loaded, drawn["own"], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("sd", {"in_channels": 9}, "takes 9 channels.*latents have 4: it is the network of an inpainting model"),
        ("sdxl", {"in_channels": 9}, "takes 9 channels.*inpainting model.*Name the text-to-image pipeline"),
        ("sd", {"in_channels": 8}, "takes 8 channels.*InstructPix2Pix"),
        ("sd", {"in_channels": 3}, "takes 3 channels.*made for another VAE"),
        ("sd", {"out_channels": 8}, "predicts 8 channels for latents of 4"),
        ("sd", {"num_class_embeds": 10}, "is told class labels"),
        ("sd", {"addition_embed_type": "text"}, "is told 'text' besides the prompt, where this family has 'None'"),
        ("sdxl", {"projection_class_embeddings_input_dim": 56}, "is told 56 added values, where this family gives 64"),
        ("sd", {"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 16}, "puts 'text_proj' before the prompt"),
    ],
)
def test_a_network_that_wants_something_else_is_refused(name: str, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=f"--model: the network of the pipeline {sentence}"):
        denoiser_of(with_unet(tiny_family(name), **settings))


def test_an_inpainting_folder_and_a_controlnet_are_refused(tmp_path: Path) -> None:
    with_unet(tiny_family("sd"), in_channels=9).save_pretrained(tmp_path / "nine")
    with pytest.raises(ValueError, match=r"model\.path: the network of '.*nine' takes 9 channels.*inpainting"):
        open_denoiser(str(tmp_path / "nine"))
    with pytest.raises(ValueError, match=r"--model: the network of the pipeline takes 9 channels.*inpainting"):
        load_pipeline(tmp_path / "nine")
    pipe = tiny_family("sd")
    pipe.save_pretrained(tmp_path / "control")
    index = json.loads((tmp_path / "control" / "model_index.json").read_text())
    index["unet"] = ["diffusers", "ControlNetModel"]
    (tmp_path / "control" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="unet of '.*control' is a ControlNetModel, where this family has a UNet2D"):
        open_denoiser(str(tmp_path / "control"))
