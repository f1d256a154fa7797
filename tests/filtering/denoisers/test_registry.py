"""Which adapter a model gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from memsieve.filtering.denoisers import registry
from memsieve.filtering.denoisers.registry import FAMILIES, denoiser_of, open_denoiser

Folder = Callable[[str], Path]


def test_a_prediction_type_that_does_not_fit(family_folder: Folder) -> None:
    with pytest.raises(ValueError, match="v_prediction does not fit a flow model"):
        open_denoiser(str(family_folder("sd3")), "v_prediction")
    assert open_denoiser(str(family_folder("sdxl")), "v_prediction").prediction_type == "v_prediction"


def test_a_family_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "AudioLDMPipeline"}))
    with pytest.raises(
        ValueError, match=r"is a AudioLDMPipeline, a family that is not known.*StableDiffusionXLPipeline"
    ):
        open_denoiser(str(tmp_path))
    with pytest.raises(ValueError, match="a family that is not known"):
        denoiser_of(object())


def test_a_diffusers_that_is_too_old_for_a_family_is_named(
    family_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "version", lambda package: "0.36.0")
    with pytest.raises(ValueError, match=r"is a SanaPipeline, which needs diffusers 0\.37 or later, and 0\.36\.0"):
        open_denoiser(str(family_folder("sana")))
    assert open_denoiser(str(family_folder("sd"))).prediction_type == "epsilon"


def test_every_line_of_the_registry_can_be_imported() -> None:
    from importlib import import_module

    for name, (module, kind) in FAMILIES.items():
        assert getattr(import_module(module), kind).pipeline_class.__name__ == name
