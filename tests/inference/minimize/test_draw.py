"""What is drawn of a minimised prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memsieve.inference.minimize.draw import draw_from
from memsieve.inference.minimize.minimize import minimize
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.opened import open_model
from tests.inference.guard.calls import SETTINGS, first_step
from tests.tiny_models import tiny_family


def test_minimize_returns_the_sizes_that_it_measured_with() -> None:
    """SDXL at another resolution than its own, through the returned arguments alone."""
    pipe = tiny_family("sdxl")
    model = open_model(pipe, scheduler="own")
    settings = replace(SETTINGS, resolution=32)
    result = minimize(model, "cat dog", 1e-3, how=MinimizeSettings(iterations=1), settings=settings)
    assert result.arguments["original_size"] == result.arguments["target_size"] == (32, 32)
    seen = first_step(pipe, lambda: pipe(**result.arguments, num_inference_steps=4, output_type="latent"), 4)
    assert seen == pytest.approx(result.value, rel=1e-3)
    assert draw_from(model, result, result.cond, settings).shape == (1, 3, 32, 32)
