"""The detectors' numbers, and which settings they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from memsieve.inference.detect.detectors import DETECTORS, DetectSettings, PromptMeasurement


def test_one_component_needs_no_cosine() -> None:
    measurement = PromptMeasurement("x", {"magnitude": np.asarray([[1.0, 3.0], [5.0, 7.0]])}, None, 0.0)
    assert DETECTORS["magnitude"].component_values(measurement) == {"magnitude": 4.0}


def test_the_fall_is_what_its_name_says() -> None:
    logs = np.asarray([3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 2.0])
    measurement = PromptMeasurement("x", {"magnitude": np.stack([0.5 * np.exp(logs), 1.5 * np.exp(logs)])}, None, 0.0)
    values = DETECTORS["magnitude_fall"].component_values(measurement)
    assert values == pytest.approx({"log_early": 2.5, "fall": 2.5 - 1.0})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guidance_scale": 1.0}, r"--guidance-scale = 1: must be above 1"),
        ({"steps": 51}, r"--steps = 51: must be from 1 to --schedule-steps = 50"),
        ({"images_per_prompt": 0}, r"--images-per-prompt = 0"),
        ({"space": "latent"}, r"--space = 'latent'"),
        ({"detector": "magic"}, r"--detector = 'magic'"),
        ({"detector": "magnitude_fall", "steps": 10}, r"--steps = 10 must be at least 25 of --schedule-steps = 50"),
        ({"early_exit": True}, "needs --detector magnitude, drift or anchored_magnitude and --steps of at least 2"),
        ({"early_exit": True, "steps": 5, "detector": "magnitude_cosine"}, "not 'magnitude_cosine' and 5"),
    ],
)
def test_refusals(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectSettings(**settings)
