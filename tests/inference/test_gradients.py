"""Gradients work under inference mode and outside of it, and are refused where weights cannot have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memsieve.inference.copies.attack import AttackSettings, Target, attack_embedding
from memsieve.inference.detect.detect import detect
from memsieve.inference.explain.explain import explain
from memsieve.inference.minimize.minimize import minimize
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.opened import open_model
from tests.inference.guard.calls import CALL, SETTINGS, guard, guidance, seeded
from tests.tiny_models import tiny_family


def test_every_check_works_under_inference_mode_and_after_it() -> None:
    """Nothing that is kept between calls is left unfit for gradients."""
    target = Target("cat", "3", torch.rand(3, 16, 16, generator=seeded()) * 2 - 1)
    found = []
    for inside in (True, False):
        model = open_model(tiny_family("sdxl"))
        for now in (inside, not inside):
            with torch.inference_mode(now):
                scores = detect(model, ["cat"], settings=SETTINGS, ordinary=["a", "b"], false_positive_rate=0.4)
                told = explain(model, "cat dog", settings=SETTINGS)
                less = minimize(model, "cat dog", 1e-3, how=MinimizeSettings(iterations=2), settings=SETTINGS)
                attacked, losses = attack_embedding(model, target, AttackSettings(updates=2, batch=2))
            found.append([scores[0].score, told.value, less.value[0], *losses])
            assert torch.isfinite(attacked.encoder_hidden_states).all()
    assert all(values == pytest.approx(found[0], rel=1e-5) for values in found)


def test_weights_that_were_loaded_under_inference_mode(tmp_path: Path) -> None:
    """From a folder a check loads them outside of it; those of a pipeline in memory are refused before anything."""
    tiny_family("sd").save_pretrained(tmp_path)
    with torch.inference_mode():
        pipe = tiny_family("sd")
        told = explain(open_model(tmp_path), "cat", settings=SETTINGS)
        with pytest.raises(
            ValueError, match=r"loaded under torch\.inference_mode\(\).*load the pipeline outside of it"
        ):
            guard(pipe, "minimize")
        with pytest.raises(ValueError, match=r"loaded under torch\.inference_mode\(\)"):
            explain(pipe, "cat", settings=SETTINGS)
        guarded = guard(pipe)
        guarded("cat", **CALL, **guidance(pipe))
    assert told.value > 0 and len(guarded.report.magnitudes) == 5
