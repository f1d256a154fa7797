"""Detection: what is flagged, early exit, and what happens to bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from memsieve.inference.detect.detect import detect
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.detect.ordinary import OrdinaryPrompts
from memsieve.inference.guided import GuidedModel
from memsieve.inference.opened import open_model

PROMPTS = ["cat", "a dog on a log", "z"]


@pytest.mark.trains
def test_a_memorised_prompt_is_flagged_at_the_first_step(memorised: Any) -> None:
    options = {"num_inference_steps": 10, "guidance_scale": 3.0, "output_type": "latent"}
    seed = torch.Generator().manual_seed(0)
    copies = memorised.pipe(memorised.prompt, num_images_per_prompt=4, generator=seed, **options).images
    assert memorised.distance(copies).max() < 0.8, "the premise: this prompt does copy"
    quiet = memorised.ordinary[-1]
    results = detect(memorised.pipe, [memorised.prompt, quiet], ordinary=memorised.ordinary[:-1],
                     false_positive_rate=0.07)  # fmt: skip
    assert [r.flagged for r in results] == [True, False] and results[0].p == pytest.approx(1 / 15)


def test_results_account_for_every_prompt(build_pipeline: Callable[..., Any]) -> None:
    results = detect(build_pipeline(), ["cat", "  ", "a " * 40], ordinary=PROMPTS, false_positive_rate=0.25)
    assert [r.line for r in results] == [1, 2, 3]
    assert results[1].error == "prompt 2 is empty" and results[1].as_dict()["p"] is None and not results[1].flagged
    assert results[0].cut == "" and results[2].cut.split() == ["a"] * 26, "16 positions, two of them special"


def test_refusals(build_pipeline: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"needs at least 99 ordinary prompts, and there are 3"):
        detect(build_pipeline(), ["cat"], ordinary=PROMPTS)
    with pytest.raises(ValueError, match="not one string"):
        detect(build_pipeline(), "cat")


def test_a_model_that_gives_nan_is_an_error_for_that_prompt(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline()
    model = open_model(pipe)
    assert isinstance(model, GuidedModel)
    ordinary = OrdinaryPrompts(["magnitude"], np.asarray([[1.0], [2.0], [3.0]]))
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[pipe.tokenizer("z").input_ids[1]] = float("nan")
    results = detect(pipe, ["cat", "z"], ordinary=ordinary, false_positive_rate=0.25)
    assert results[0].error is None and "not finite" in str(results[1].error)


# --- early exit -------------------------------------------------------------------------------------------------------


@pytest.mark.trains
def test_early_exit_stops_a_prompt_and_changes_no_number(memorised: Any) -> None:
    """The flagged prompt leaves the batch; all that was computed is what a whole run computes."""
    settings = DetectSettings(steps=8, schedule_steps=10, images_per_prompt=2, guidance_scale=3.0)
    early = replace(settings, early_exit=True)
    prompts = [memorised.ordinary[-1], memorised.prompt, memorised.ordinary[-2]]
    calls: list[int] = []
    hook = memorised.pipe.unet.register_forward_hook(lambda _, args, *__: calls.append(len(args[0])))
    options: dict[str, Any] = {"ordinary": memorised.ordinary, "false_positive_rate": 0.07}
    try:
        whole = detect(memorised.pipe, prompts, settings=settings, **options)
        calls.clear()
        results = detect(memorised.pipe, prompts, settings=early, **options)
    finally:
        hook.remove()
    assert [r.flagged for r in results] == [False, True, False]
    assert results[1].steps < 8 and results[0].steps == results[2].steps == 8
    stop = results[1].steps
    assert calls[-8:] == [12] * stop + [8] * (8 - stop), "two branches of six images, then of four"
    for found, full in zip(results, whole, strict=True):
        assert found.per_step == pytest.approx(full.per_step[: found.steps], rel=1e-5)
        assert found.components["magnitude"] == pytest.approx(np.mean(full.per_step[: found.steps]), rel=1e-5)
    assert results[1].score > results[0].score and results[1].p == pytest.approx(1 / 16)
    alone = detect(memorised.pipe, [memorised.prompt], settings=early, **options)[0]
    assert alone.steps == stop and alone.score == pytest.approx(results[1].score, rel=1e-4)


def test_early_exit_refusals(build_pipeline: Callable[..., Any]) -> None:
    early = DetectSettings(early_exit=True, steps=2, images_per_prompt=4)
    with pytest.raises(ValueError, match=r"--batch = 2 must be at least --images-per-prompt = 4"):
        detect(build_pipeline(), ["cat"], settings=early, ordinary=PROMPTS, false_positive_rate=0.25, batch=2)
    ordinary = OrdinaryPrompts(["magnitude"], np.asarray([[1.0], [2.0], [3.0]]))
    with pytest.raises(ValueError, match="with early_exit it must be OrdinaryPaths"):
        detect(build_pipeline(), ["cat"], settings=early, ordinary=ordinary, false_positive_rate=0.25)


@pytest.mark.trains
def test_a_prompt_whose_magnitude_falls_is_told_apart(memorised: Any) -> None:
    settings = DetectSettings(detector="magnitude_fall", steps=10, schedule_steps=10, guidance_scale=3.0)
    results = detect(memorised.pipe, [memorised.prompt, memorised.ordinary[-1]], settings=settings,
                     ordinary=memorised.ordinary[:-1], false_positive_rate=0.07)  # fmt: skip
    assert results[0].score > results[1].score and set(results[0].components) == {"log_early", "fall"}
