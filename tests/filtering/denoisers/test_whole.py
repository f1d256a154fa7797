"""A whole pipeline from its folder, to draw with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPImageProcessor

from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.inference.generate import GenerateSettings, generate, load_pipeline
from tests.tiny_models import tiny_family

PARTS = ("unet", "vae", "text_encoder")


def only_bin(folder: Path, part: str, pipe: Any) -> None:
    """Pickled weights in place of safetensors, as diffusers and transformers once saved them."""
    for file in (folder / part).glob("*.safetensors"):
        file.unlink()
    name = "pytorch_model.bin" if part in ("text_encoder", "safety_checker") else "diffusion_pytorch_model.bin"
    torch.save(getattr(pipe, part).state_dict(), folder / part / name)


def same_weights(one: Any, two: Any, parts: tuple[str, ...] = PARTS) -> bool:
    """Whether the parts of two pipelines hold the same values."""
    return all(
        torch.equal(value, getattr(two, part).state_dict()[name])
        for part in parts
        for name, value in getattr(one, part).state_dict().items()
    )


def test_a_safety_checker_of_pickles_is_left_out_and_said(tmp_path: Path) -> None:
    """Training does not look at it; drawing goes on without it."""
    plain = tiny_family("sd")
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 8, "patch_size": 4}  # fmt: skip
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, text_config={}, projection_dim=8))
    pipe = StableDiffusionPipeline(
        **{**plain.components, "safety_checker": checker, "feature_extractor": CLIPImageProcessor()}
    )
    folder = tmp_path / "checked"
    pipe.save_pretrained(folder)
    assert load_pipeline(folder).safety_checker is not None
    only_bin(folder, "safety_checker", pipe)
    with pytest.warns(UserWarning, match="drawn without the pipeline's safety checker.*pickle"):
        loaded = load_pipeline(folder)
    assert loaded.safety_checker is None
    options: dict[str, Any] = {"settings": GenerateSettings(steps=2, guidance_scale=3.0), "progress": False}
    assert torch.allclose(generate(loaded, ["cat"], **options), generate(plain, ["cat"], **options), atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_weights(open_denoiser(str(folder)).pipeline(), plain)
