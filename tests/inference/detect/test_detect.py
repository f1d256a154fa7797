"""Detection: the formula against a plain loop, batches, p-values, and what happens to bad input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
)

from memsieve.inference.detect.detect import detect
from memsieve.inference.detect.detectors import DETECTORS, DetectSettings, Measurement, measure_prompts
from memsieve.inference.detect.ordinary import PathReference, Reference
from memsieve.inference.guided import GuidedModel, open_model
from memsieve.inference.prompts.lists import ordinary_prompts
from tests.tiny_models import tiny_family

PROMPTS = ["cat", "a dog on a log", "z"]


def plain_loop(
    pipe: StableDiffusionPipeline, prompt: str, noise: torch.Tensor, steps: int, scale: float
) -> list[float]:
    """||eps_c - eps_0|| of one image by UNet and scheduler alone, both predictions turned into epsilon."""
    scheduler = DDIMScheduler.from_config(dict(pipe.scheduler.config))
    scheduler.set_timesteps(10)
    with torch.no_grad():
        states = []
        for text in ("", prompt):
            ids = pipe.tokenizer(
                text, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
            ).input_ids
            states.append(pipe.text_encoder(ids)[0])
        x, found = noise.double(), []
        unet = pipe.unet.double()
        for t in scheduler.timesteps[:steps]:
            uncond, cond = (unet(x, t, encoder_hidden_states=s.double()).sample for s in states)
            eps = [uncond, cond]
            if scheduler.config.prediction_type == "v_prediction":
                alpha = scheduler.alphas_cumprod[t].double() ** 0.5
                sigma = (1 - scheduler.alphas_cumprod[t].double()) ** 0.5
                eps = [alpha * v + sigma * x for v in (uncond, cond)]
            found.append(float((eps[1] - eps[0]).square().sum().sqrt()))
            x = scheduler.step(uncond + scale * (cond - uncond), t, x).prev_sample.double()
    pipe.unet.float()
    return found


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_magnitudes_equal_a_plain_loop(build_pipeline: Callable[..., Any], prediction_type: str) -> None:
    pipe = build_pipeline(prediction_type)
    model = open_model(pipe)
    settings = DetectSettings(steps=4, schedule_steps=10, images_per_prompt=2, guidance_scale=5.0, seed=7)
    measured = list(measure_prompts(model, PROMPTS, settings, batch=4))
    for measurement in measured:
        for j in range(2):
            noise = model.noise([measurement.prompt], [j], 7)
            expected = plain_loop(pipe, measurement.prompt, noise, 4, 5.0)
            assert min(expected) > 0.01, "a reference of zero would prove nothing"
            assert measurement.magnitudes[j] == pytest.approx(expected, rel=1e-5)
    assert len({round(float(m.magnitudes[0, 0]), 6) for m in measured}) == 3, "prompts differ"


def test_a_flow_models_magnitudes_equal_a_plain_loop() -> None:
    """Stable Diffusion 3 by its transformer and Euler's rule alone, in double precision: x += (s' - s) v."""
    pipe = tiny_family("sd3")
    model = open_model(pipe)
    settings = DetectSettings(steps=4, schedule_steps=10, guidance_scale=5.0, seed=7, resolution=16)
    measured = list(measure_prompts(model, ["cat", "a dog"], settings))
    sigmas = np.linspace(1.0, 1 / 1000, 1000)
    sigmas = 3 * sigmas / (1 + 2 * sigmas)  # the scheduler's shift of 3
    grid = np.linspace(1000 * sigmas[0], 1000 * sigmas[-1], 10) / 1000
    grid = np.append(3 * grid / (1 + 2 * grid), 0.0)
    expected = []
    for prompt in ("cat", "a dog"):
        with torch.no_grad():
            cond, uncond, pooled, unpooled = pipe.encode_prompt(prompt, None, None, negative_prompt="")
            x, transformer = model.noise([prompt], [0], 7, 16).double(), pipe.transformer.double()
            for s, after in pairwise(grid[:5]):
                with_, without = (
                    transformer(
                        hidden_states=x, timestep=torch.tensor([1000 * s]), encoder_hidden_states=states.double(),
                        pooled_projections=summary.double(),
                    ).sample
                    for states, summary in ((cond, pooled), (uncond, unpooled))
                )  # fmt: skip
                factor = 1.0 if 1 - s < 0.05 else 1 - s
                expected.append(factor * float((with_ - without).square().sum().sqrt()))
                x = x + (after - s) * (without + 5 * (with_ - without))
            pipe.transformer.float()
    found = [float(value) for m in measured for value in m.magnitudes[0]]
    assert min(expected) > 0.01 and grid[0] == pytest.approx(1.0)
    assert found == pytest.approx(expected, rel=1e-5)


def test_native_space_is_the_networks_own(build_pipeline: Callable[..., Any]) -> None:
    model = open_model(build_pipeline("v_prediction"))
    native, eps = (
        next(measure_prompts(model, ["cat"], DetectSettings(schedule_steps=10, space=space))).magnitudes[0, 0]
        for space in ("native", "epsilon")
    )
    t = model.timesteps(10)[0]
    assert eps == pytest.approx(native * float(model.pipe.scheduler.alphas_cumprod[t]) ** 0.5, rel=1e-5) and eps > 0


def test_auto_takes_the_native_norm_where_epsilon_space_says_nothing(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline("v_prediction")
    pipe.scheduler = DDIMScheduler.from_config(
        dict(pipe.scheduler.config), rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    model = open_model(pipe)
    first, last = model.timesteps(10)[0], model.timesteps(10)[-1]
    assert model.factor(first, "epsilon") < 1e-3 and model.factor(first) == 1.0
    assert model.factor(last) == model.factor(last, "epsilon") > 0.9


def test_batch_order_and_count_do_not_matter(build_pipeline: Callable[..., Any]) -> None:
    model = open_model(build_pipeline())
    settings = DetectSettings(steps=2, schedule_steps=10, images_per_prompt=3)
    one, many = (list(measure_prompts(model, PROMPTS, settings, batch)) for batch in (1, 16))
    for a, b in zip(one, many, strict=True):
        assert a.magnitudes == pytest.approx(b.magnitudes, rel=1e-4)
    alone = list(measure_prompts(model, ["z"], settings))
    assert alone[0].magnitudes == pytest.approx(one[2].magnitudes, rel=1e-4)
    single = DetectSettings(steps=2, schedule_steps=10, images_per_prompt=1)
    first = next(measure_prompts(model, ["z"], single))
    assert first.magnitudes[0] == pytest.approx(one[2].magnitudes[0], rel=1e-4)


def test_nothing_runs_after_the_last_step_and_nothing_is_decoded(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline()
    calls = {"unet": 0, "vae": 0}
    pipe.unet.register_forward_hook(lambda *_: calls.__setitem__("unet", calls["unet"] + 1))
    pipe.vae.decoder.register_forward_hook(lambda *_: calls.__setitem__("vae", calls["vae"] + 1))
    list(measure_prompts(open_model(pipe), ["cat", "dog"], DetectSettings(steps=1, schedule_steps=50)))
    assert calls == {"unet": 1, "vae": 0}


def test_other_schedulers_run_their_own_trajectory(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline()
    pipe.scheduler = EulerDiscreteScheduler.from_config(dict(pipe.scheduler.config))
    settings = DetectSettings(steps=3, schedule_steps=10)
    own, ddim = (next(measure_prompts(open_model(pipe, scheduler=s), ["cat"], settings)) for s in ("own", "ddim"))
    assert np.isfinite(own.magnitudes).all() and (own.magnitudes > 0.01).all()
    assert own.magnitudes[0, 1:] != pytest.approx(ddim.magnitudes[0, 1:], rel=1e-3)


def test_cosine_at_low_noise_equals_the_formula(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline("v_prediction")
    model = open_model(pipe)
    settings = DetectSettings(detector="magnitude_cosine", schedule_steps=10)
    found = next(measure_prompts(model, ["cat"], settings)).cosine
    noise, t = model.noise(["cat"], [0], 0), model.timesteps(10)[-1]
    with torch.no_grad():
        cond, uncond = (
            pipe.unet(noise, t, encoder_hidden_states=pipe.encode_prompt(p, "cpu", 1, False)[0]).sample
            for p in ("cat", "")
        )
        alpha = pipe.scheduler.alphas_cumprod[t] ** 0.5
        eps_0 = alpha * uncond + (1 - alpha**2) ** 0.5 * noise
    expected = torch.nn.functional.cosine_similarity((cond - uncond).flatten(), eps_0.flatten(), dim=0)
    assert found is not None and found[0] == pytest.approx(float(expected), rel=1e-4) and abs(found[0]) > 1e-3


def test_p_values_are_ranks_among_ordinary_prompts() -> None:
    reference = Reference(["magnitude"], np.arange(99.0)[:, None])
    assert reference.p_values(np.asarray([98.5, 98.0, 0.0])).tolist() == pytest.approx([0.01, 0.02, 1.0])
    threshold = reference.threshold(0.02)
    above = np.asarray([threshold, threshold + 1e-6])
    assert (reference.p_values(above) <= 0.02).tolist() == [False, True]
    two = Reference(["a", "b"], np.stack([np.arange(9.0), 100 * np.arange(9.0)], axis=1))
    assert two.scores(np.asarray([[4.0, 400.0]])) == pytest.approx([0.0]), "the medians"
    assert two.scores(np.asarray([[6.0, 400.0]])) == pytest.approx(two.scores(np.asarray([[4.0, 600.0]])))


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


def test_the_shipped_list_is_large_enough_and_distinct() -> None:
    prompts = ordinary_prompts()
    assert len(prompts) == len(set(prompts)) >= 199 and all(len(p.split()) >= 3 for p in prompts)


def test_refusals(build_pipeline: Callable[..., Any], model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--guidance-scale = 1: must be above 1"):
        DetectSettings(guidance_scale=1.0)
    with pytest.raises(ValueError, match=r"--steps = 51: must be from 1 to --schedule-steps = 50"):
        DetectSettings(steps=51)
    with pytest.raises(ValueError, match=r"--detector = 'magic'"):
        DetectSettings(detector="magic")
    with pytest.raises(ValueError, match=r"needs at least 99 ordinary prompts, the reference has 3"):
        detect(build_pipeline(), ["cat"], ordinary=PROMPTS)
    with pytest.raises(ValueError, match="not one string"):
        detect(build_pipeline(), "cat")
    with pytest.raises(ValueError, match="no diffusers pipeline"):
        open_model(tmp_path)
    pipe = build_pipeline()
    pipe.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(
        ValueError, match=r"guidance-distilled.*detect, explain, minimize.*verify, and probe without --attack"
    ):
        open_model(pipe)
    with pytest.raises(ValueError, match="a family that is not known"):
        open_model(SimpleNamespace(unet=None, transformer=None))


def test_a_folder_without_a_part_says_which(model_folder: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    shutil.rmtree(broken / "text_encoder")
    with pytest.raises(ValueError, match="has no text_encoder/ folder"):
        open_model(broken)


def test_a_model_that_gives_nan_is_an_error_for_that_prompt(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline()
    model = open_model(pipe)
    assert isinstance(model, GuidedModel)
    reference = Reference(["magnitude"], np.asarray([[1.0], [2.0], [3.0]]))
    with torch.no_grad():
        pipe.text_encoder.get_input_embeddings().weight[pipe.tokenizer("z").input_ids[1]] = float("nan")
    results = detect(pipe, ["cat", "z"], ordinary=reference, false_positive_rate=0.25)
    assert results[0].error is None and "not finite" in str(results[1].error)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_measured(model_folder: Path, dtype: torch.dtype) -> None:
    half, full = (
        next(measure_prompts(open_model(model_folder, dtype=d), ["cat"], DetectSettings())).magnitudes
        for d in (dtype, torch.float32)
    )
    assert half == pytest.approx(full, rel=0.1) and (half > 0).all()


def test_one_component_needs_no_cosine() -> None:
    measurement = Measurement("x", np.asarray([[1.0, 3.0], [5.0, 7.0]]), None, 0.0)
    assert DETECTORS["magnitude"].evidence(measurement) == {"magnitude": 4.0}


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


@pytest.mark.parametrize("kind", [PNDMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler, DDPMScheduler])
def test_leaving_keeps_what_a_multistep_scheduler_remembers(build_pipeline: Callable[..., Any], kind: Any) -> None:
    """Rows leave at the second and at the fourth step; those that stay go on as if nothing had happened."""
    pipe = build_pipeline()
    pipe.scheduler = kind.from_config(dict(pipe.scheduler.config))
    model = open_model(pipe, scheduler="own")
    noise = model.noise(["cat"] * 4, range(4), 0)

    def run(rows: list[int], leave: dict[int, list[int]]) -> list[torch.Tensor]:
        cond = model.encode([PROMPTS[row % 3] for row in rows])
        steps = model.trajectory(
            noise[rows], cond, model.unconditional(len(rows)), steps=6, schedule_steps=10, guidance_scale=5.0,
            generators=[torch.Generator().manual_seed(row) for row in rows],
        )  # fmt: skip
        found, kept = [], None
        for index in range(6):
            step = steps.send(kept)
            found.append(model.magnitude(step))
            kept = torch.tensor(leave[index]) if index in leave else None
        return found

    whole, leaving = run([0, 1, 2, 3], {}), run([0, 1, 2, 3], {1: [0, 2, 3], 3: [2]})
    for index, rows in enumerate([[0, 1, 2, 3]] * 2 + [[0, 2, 3]] * 2 + [[3]] * 2):
        assert leaving[index].tolist() == pytest.approx(whole[index][rows].tolist(), rel=1e-4), index
    assert whole[5][3] != pytest.approx(float(whole[5][2]), rel=1e-2), "rows differ"


def test_looking_at_every_step_flags_no_more_ordinary_prompts() -> None:
    """600 ordinary curves that wander: 5 % of new ones pass the limit at some step, not 5 % at each."""
    rng = np.random.default_rng(0)

    def curves(count: int) -> list[Measurement]:
        logs = rng.normal(size=(count, 1, 30)) + 2 * rng.normal(size=(count, 1, 1))
        return [Measurement(str(i), np.exp(row), None, 0.0) for i, row in enumerate(logs)]

    reference = PathReference(curves(600), 0.05)
    new = curves(2000)
    places = np.asarray([reference.path(m.magnitudes) for m in new])
    assert 0.03 < (places > reference.limit).mean() < 0.07
    assert ((reference.p_values(places) <= 0.05) == (places > reference.limit)).all()
    naive = PathReference([Measurement(m.prompt, m.magnitudes[:, :1], None, 0.0) for m in curves(600)], 0.05)
    single = np.asarray([naive.path(m.magnitudes[:, :1]) for m in new])
    assert (single > naive.limit).mean() < 0.08
    first = [reference.path(m.magnitudes[:, :5]) for m in new[:20]]
    assert all(a <= b for a, b in zip(first, places, strict=False)), "the path only rises"


@pytest.mark.trains
def test_early_exit_refusals(build_pipeline: Callable[..., Any], memorised: Any) -> None:
    with pytest.raises(ValueError, match="needs --detector magnitude and --steps of at least 2"):
        DetectSettings(early_exit=True)
    with pytest.raises(ValueError, match="not 'magnitude_cosine' and 5"):
        DetectSettings(early_exit=True, steps=5, detector="magnitude_cosine")
    early = DetectSettings(early_exit=True, steps=2, images_per_prompt=4)
    with pytest.raises(ValueError, match=r"--batch = 2 must be at least --images-per-prompt = 4"):
        detect(build_pipeline(), ["cat"], settings=early, ordinary=PROMPTS, false_positive_rate=0.25, batch=2)
    reference = Reference(["magnitude"], np.asarray([[1.0], [2.0], [3.0]]))
    with pytest.raises(ValueError, match="with early_exit it must be a PathReference"):
        detect(build_pipeline(), ["cat"], settings=early, ordinary=reference, false_positive_rate=0.25)


@pytest.mark.trains
def test_the_fall_is_what_its_name_says(memorised: Any) -> None:
    with pytest.raises(ValueError, match=r"--steps = 10 must be at least 25 of --schedule-steps = 50"):
        DetectSettings(detector="magnitude_fall", steps=10)
    logs = np.asarray([3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 2.0])
    measurement = Measurement("x", np.stack([0.5 * np.exp(logs), 1.5 * np.exp(logs)]), None, 0.0)
    evidence = DETECTORS["magnitude_fall"].evidence(measurement)
    assert evidence == pytest.approx({"log_early": 2.5, "fall": 2.5 - 1.0})
    settings = DetectSettings(detector="magnitude_fall", steps=10, schedule_steps=10, guidance_scale=3.0)
    results = detect(memorised.pipe, [memorised.prompt, memorised.ordinary[-1]], settings=settings,
                     ordinary=memorised.ordinary[:-1], false_positive_rate=0.07)  # fmt: skip
    assert results[0].score > results[1].score and set(results[0].components) == {"log_early", "fall"}
