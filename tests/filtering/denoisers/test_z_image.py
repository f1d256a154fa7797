"""Z-Image: the distilled model is of the same classes, and known by its name alone."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from tests.tiny_models import tiny_family


def test_a_turbo_is_warned_about_by_its_name(tmp_path: Path) -> None:
    pipe = tiny_family("z_image")
    pipe.save_pretrained(tmp_path / "Z-Image-Turbo", safe_serialization=True)
    with pytest.warns(UserWarning, match=r"Z-Image-Turbo' is by its name a Turbo.*reference_residual"):
        open_denoiser(str(tmp_path / "Z-Image-Turbo"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert denoiser_of(pipe).distilled is None
