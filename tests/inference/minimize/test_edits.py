"""Other words for a memorised prompt."""

from __future__ import annotations

from typing import Any

import pytest

from memsieve.inference.detect.detectors import DETECTORS, DetectSettings
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.detect.ordinary import OrdinaryPrompts
from memsieve.inference.minimize.edits import suggest_edits
from memsieve.inference.opened import open_model

SETTINGS = DetectSettings(schedule_steps=10, guidance_scale=3.0)


@pytest.mark.trains
def test_suggestions_are_rescored_with_the_same_noise(memorised: Any) -> None:
    model = open_model(memorised.pipe)
    measured = list(measure_prompts(model, memorised.ordinary, SETTINGS))
    ordinary = OrdinaryPrompts.of(DETECTORS["magnitude"], measured)
    explanation, found = suggest_edits(
        model, memorised.prompt, words=2, replacements=["cat"], settings=SETTINGS, ordinary=ordinary
    )
    heavy = explanation.heaviest(2)
    assert found[0].change == "none" and found[0].prompt == memorised.prompt and found[0].p == pytest.approx(1 / 16)
    assert len(found) == 7 and {f"drop '{heavy[0].text}'", f"replace '{heavy[0].text}' by 'cat'"} <= {
        s.change for s in found
    }
    assert [s.score for s in found[1:]] == sorted(s.score for s in found[1:]) and found[1].score < found[0].score
    noise = next(measure_prompts(model, [found[1].prompt], SETTINGS, noise_of=memorised.prompt))
    assert found[1].score == pytest.approx(float(noise.magnitudes.mean()), rel=1e-4)
