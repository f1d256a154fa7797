"""Tiny random Stable Diffusion pipelines whose prompts matter: references in these tests must not be zero."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline

from tests.conftest import SEED
from tests.inference.memorised import Memorised, make_pipeline, memorise


@pytest.fixture(scope="session")
def build_pipeline() -> Callable[..., StableDiffusionPipeline]:
    return make_pipeline


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def memorised() -> Memorised:
    """Trained anew in each session: weights kept from another one could hide that they are no longer reached."""
    return memorise(SEED)
