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
from tests.filtering.denoisers.pickled import only_bin, same_weights
from tests.tiny_models import tiny_family


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
