"""Every model family through detection, explanation, minimisation, the guard, the attack and drawing."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from memsieve.filtering.denoisers.base import EPSILON_FLOOR
from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.inference.copies.attack import AttackSettings, Target, attack_embedding, attack_pairs
from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.similarity import PixelL2
from memsieve.inference.detect.detect import detect
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.explain.explain import explain
from memsieve.inference.explain.page import as_text
from memsieve.inference.explain.words import token_table
from memsieve.inference.generate import GenerateSettings, generate, sampling_scheduler
from memsieve.inference.guard.guard import MemorizationGuard, MemorizationRefused
from memsieve.inference.guard.settings import GuardSettings
from memsieve.inference.minimize.draw import draw
from memsieve.inference.minimize.minimize import minimize
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.opened import open_model
from memsieve.inference.ui.inspect import Inspector
from tests.guided_calls import branches_of, guidance, network_of, prediction_of
from tests.tiny_models import DISTILLED, FLOW, GUIDED, RECENT, recent_slow, side_of, tiny_family

MEASURED = recent_slow(GUIDED)
SETTINGS = DetectSettings(steps=2, schedule_steps=4, guidance_scale=3.0, resolution=16)
RESCALED = ("qwen_image", "lumina_2")
"""Families whose pipelines give the guided prediction the length of the conditional one."""


def settings_of(name: str) -> DetectSettings:
    return replace(SETTINGS, resolution=side_of(name))


def size_of(name: str) -> dict[str, int]:
    return {"height": side_of(name), "width": side_of(name)}


def pipelines_own(
    pipe: Any, prompt: str, latents: torch.Tensor, steps: int, side: int
) -> tuple[list[float], list[float]]:
    """(||cond - uncond||, timestep) of each step of the pipeline's own call: read by a hook that knows no adapter."""
    outputs: list[torch.Tensor] = []

    def hook(module: Any, args: Any, output: Any) -> None:
        rows = prediction_of(output)
        outputs.append(rows[:, :4] if "PixArt" in type(pipe).__name__ else rows)

    handle = network_of(pipe).register_forward_hook(hook)
    pipe(
        prompt=prompt, latents=latents, num_inference_steps=steps, height=side, width=side, output_type="latent",
        **guidance(pipe, 3.0),
    )  # fmt: skip
    handle.remove()
    return [float((c - u).norm()) for c, u in branches_of(pipe, outputs)], pipe.scheduler.timesteps.tolist()


@pytest.mark.parametrize("name", MEASURED)
def test_magnitudes_are_those_of_the_pipelines_own_call(name: str) -> None:
    """Two steps of the guided trajectory; the first of a flow model, at s = 1, by the native norm."""
    pipe = tiny_family(name)
    pipe.scheduler = sampling_scheduler(pipe, "auto")
    model = open_model(pipe)
    settings, side = settings_of(name), side_of(name)
    measured = next(measure_prompts(model, ["cat dog"], settings)).magnitudes[0]
    noise = model.noise(["cat dog"], [0], 0, side)
    denoiser = model.denoiser
    arguments = denoiser.call_arguments(denoiser.conditioning(["cat dog"]), None, 1.0, noise)
    native, times = pipelines_own(pipe, "cat dog", arguments["latents"], 4, side)
    share = 1 - times[1] / 1000
    factors = [1.0, share if name in FLOW and share >= EPSILON_FLOOR else 1.0]
    assert measured == pytest.approx([m * f for m, f in zip(native[:2], factors, strict=True)], rel=1e-3)
    assert min(measured) > 0.005
    if name in FLOW:
        assert times[0] == pytest.approx(1000.0, abs=1) and 0 < share < 1 and (factors[1] < 1 or name == "flux_2_klein")
        only = replace(settings, steps=1, space="epsilon")
        at_noise = float(model.denoiser.epsilon_factor(torch.tensor([times[0]])))
        assert next(measure_prompts(model, ["cat dog"], only)).magnitudes[0, 0] == pytest.approx(native[0] * at_noise)
        assert at_noise < 2e-3


@pytest.mark.parametrize("name", MEASURED)
def test_detect_explain_and_minimize(name: str) -> None:
    pipe, settings = tiny_family(name), settings_of(name)
    found = detect(
        pipe, ["cat dog", "b"], settings=settings, ordinary=["a", "b c", "d", "e f"], false_positive_rate=0.2
    )
    assert all(result.error is None and 0 < result.p <= 1 for result in found) and found[0].score != found[1].score
    model = open_model(pipe)
    told = explain(model, "cat dog a", settings=settings)
    assert [word.text for word in told.words] == ["cat", "dog", "a"] and all(w.significance > 0 for w in told.words)
    lines = as_text(told).splitlines()
    assert len(lines) == 3 + 4 + (told.pooled is not None) and lines[-1].startswith("padding together")
    assert any(line.startswith("pooled embedding") for line in lines) == (told.pooled is not None)
    encoders = {"sdxl": 2, "sd3": 3}.get(name, 1)
    assert len(told.encoders) == encoders and (told.pooled is None) == (name in ("sd", "pixart") or name in RECENT)
    if encoders > 1:
        alone = [e.words[0].significance for e in told.encoders]
        assert len(set(alone)) == encoders, "each encoder by its own features"
        assert told.words[0].significance == pytest.approx(float(np.linalg.norm(alone)), rel=1e-6)
    target = 0.6 * found[0].per_step[0]
    result = minimize(model, "cat dog", target, images=2, how=MinimizeSettings(iterations=60), settings=settings)
    assert all(result.met) and max(result.value) <= target < min(result.trace[0])
    own = pipelines_own_arguments(model, result, name)
    assert own == pytest.approx(result.value, rel=1e-3), "the pipeline, called with what was returned, sees it so"
    some = minimize(model, "cat dog", 1e-3, how=MinimizeSettings(iterations=2, tokens="words"), settings=settings)
    whole = minimize(model, "cat dog", 1e-3, how=MinimizeSettings(iterations=2), settings=settings)
    start = model.encode(["cat dog"])
    moved, all_moved = (
        (m.prompt_embeds[0] != start.encoder_hidden_states[0]).any(1).nonzero().flatten().tolist()
        for m in (some, whole)
    )
    places = [part.first + t.position for part in model.denoiser.text_layout()
              for t in token_table(part, "cat dog").tokens if t.kind == "word"]  # fmt: skip
    assert moved and set(moved) <= set(places) <= set(all_moved), "the words alone"
    assert (set(all_moved) == set(places)) == (name == "sana"), "which has but a start besides, and that stays"
    before, after = draw(model, result, settings)
    assert before.shape == after.shape == (2, 3, side_of(name), side_of(name)) and not torch.equal(before, after)


def pipelines_own_arguments(model: Any, result: Any, name: str) -> list[float]:
    """First-step magnitudes [n] of the pipeline's own call with the result's arguments."""
    pipe, seen = model.pipe, []
    handle = model.model.register_forward_hook(lambda module, args, output: seen.append(prediction_of(output)))
    pipe.scheduler = sampling_scheduler(pipe, "auto")
    pipe(**result.arguments, num_inference_steps=4, **size_of(name), output_type="latent")
    handle.remove()
    with_, without = branches_of(pipe, seen)[0]
    delta = with_ - without
    return delta[:, : 4 if delta.ndim == 4 else None].flatten(1).norm(dim=1).tolist()


def apart(one: torch.Tensor, two: torch.Tensor) -> float:
    """Largest difference, in standard deviations: a random PixArt's latents grow large."""
    return float((one - two).abs().max() / two.std())


@pytest.mark.parametrize("name", MEASURED)
def test_the_guard(name: str) -> None:
    pipe = tiny_family(name)
    call: dict[str, Any] = {"num_inference_steps": 4, **size_of(name), "output_type": "latent"}

    def run(**settings: Any) -> tuple[MemorizationGuard, torch.Tensor]:
        guard = MemorizationGuard(pipe, ordinary=["a", "b"], **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            generator = torch.Generator().manual_seed(0)
            images = guard(prompt=["cat dog", "b"], generator=generator, **guidance(pipe, 3.0, 2), **call).images
        return guard, images

    guard, plain = run(threshold=1e9)
    assert guard.report.flagged == [False, False] and len(guard.report.magnitudes) == 4
    first = guard.report.magnitudes[0]
    model = open_model(pipe, scheduler="own")
    noise = torch.randn(2, *model.denoiser.latent_shape(side_of(name)), generator=torch.Generator().manual_seed(0))
    states = model.encode(["cat dog", "b"]), model.unconditional(2)
    step = next(model.trajectory(noise, *states, steps=1, schedule_steps=4, guidance_scale=3.0))
    assert first == pytest.approx(model.magnitude(step).tolist(), rel=1e-3), "what detection measures"
    between = sorted(first)
    threshold = sum(between) / 2
    assert between[0] < threshold < between[1]
    with pytest.raises(MemorizationRefused):
        run(threshold=threshold, action="refuse")
    guard, held = run(threshold=threshold, action="delay", settings=GuardSettings(fall=1e-9))
    flagged = guard.report.flagged.index(True)
    assert sum(guard.report.flagged) == 1 and guard.report.released[flagged] is None
    assert apart(held[1 - flagged], plain[1 - flagged]) < 1e-3
    generator = torch.Generator().manual_seed(0)
    empty = pipe(prompt=["", ""], generator=generator, **guidance(pipe, 3.0, 2), **call).images
    # Some guide away from something else than the empty caption, and some rescale what guidance gives.
    if name not in ("sdxl", "sana", *RESCALED):
        assert apart(held[flagged], empty[flagged]) < 1e-3, "guidance never came back: the empty prompt's"
    settings = GuardSettings(target=0.9 * threshold, minimize=MinimizeSettings(iterations=60))
    guard, changed = run(threshold=threshold, action="minimize", settings=settings)
    assert guard.report.minimized[flagged] <= threshold and np.isnan(guard.report.minimized[1 - flagged])
    assert apart(changed[1 - flagged], plain[1 - flagged]) < 1e-3
    assert apart(changed[flagged], plain[flagged]) > 1e-2
    assert not network_of(pipe)._forward_hooks


@pytest.mark.parametrize("name", MEASURED)
def test_attack_and_generate(name: str) -> None:
    model = open_model(tiny_family(name))
    side = side_of(name)
    images = torch.rand(30, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    target = Target("cat", "3", images[3])
    embedding, losses = attack_embedding(model, target, AttackSettings(updates=30, batch=4, lr=0.05))
    assert sum(losses[-10:]) < sum(losses[:10]) and len(embedding) == 1
    started = model.encode(["cat"])
    for key, value in embedding.embeddings.items():
        assert not torch.equal(value, started.embeddings[key]), key
    judge = CopyJudge(PixelL2(), images[:10], [str(i) for i in range(10)])
    judge.calibrate(images[10:])
    result = attack_pairs(model, [target], judge, AttackSettings(updates=1, images=2, steps=2, batch=2), progress=False)
    assert result.generations.shape == (2, 3, side, side)
    drawn, weak = (
        generate(
            model.pipe, ["cat", "dog"], progress=False,
            settings=GenerateSettings(steps=2, call=size_of(name), guidance_scale=scale),
        )
        for scale in (3.0, 1.0)
    )  # fmt: skip
    assert drawn.shape == (2, 3, side, side) and not torch.allclose(drawn, weak, atol=1e-4), (
        "guidance reaches the pipeline"
    )


@pytest.mark.parametrize("name", ["sdxl", "sd3", "pixart"])
def test_the_page_draws_with_progress(name: str) -> None:
    inspector = Inspector(
        open_model(tiny_family(name)),
        ["a", "b c", "d", "e"],
        settings=SETTINGS,
        false_positive_rate=0.3,
        progress=False,
    )
    said: list[str] = []
    found = inspector.inspect("cat dog")
    images = inspector.draw("cat dog", 2, 2, lambda share, what: said.append(what))
    assert found.score > 0 and images.shape == (2, 3, 16, 16) and len(said) == 2


@pytest.mark.parametrize("name", recent_slow(DISTILLED))
def test_a_distilled_model_is_refused_by_name_and_drawn(name: str) -> None:
    pipe = tiny_family(name)
    sentence = r"guidance-distilled.*magnitude.*explain, minimize, the guard and the attack, cannot work.*loss and ref"
    with pytest.raises(ValueError, match=sentence):
        open_model(pipe)
    with pytest.raises(ValueError, match=sentence):
        MemorizationGuard(pipe)
    small = GenerateSettings(steps=2, call=size_of(name))
    one, two = (
        generate(pipe, ["cat"], settings=replace(small, guidance_scale=scale), progress=False) for scale in (1.0, 7.0)
    )
    assert one.shape == (1, 3, 16, 16) and not torch.allclose(one, two, atol=1e-4), "its embedded scale is told"
    assert denoiser_of(pipe).distilled is not None and denoiser_of(tiny_family("flux_guided")).distilled is None
