"""The guard sees what a pipeline really does: whether a step is guided, what its network is told, in which mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PixArtTransformer2DModel
from diffusers.callbacks import SD3CFGCutoffCallback, SDCFGCutoffCallback, SDXLCFGCutoffCallback

from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.inference.copies.attack import AttackSettings, Target, attack_embedding
from memsieve.inference.detect.detect import detect
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.explain.explain import explain
from memsieve.inference.guard.branches import BranchReader
from memsieve.inference.guard.guard import MemorizationGuard
from memsieve.inference.guided import open_model
from memsieve.inference.minimize.minimize import draw_from, minimize
from tests.tiny_models import TINY_FAMILIES, tiny_family

MEASURED = tuple(name for name in TINY_FAMILIES if name != "flux")
CALL: dict[str, Any] = {"num_inference_steps": 5, "height": 16, "width": 16, "output_type": "latent"}
SETTINGS = DetectSettings(schedule_steps=4, guidance_scale=3.0, resolution=16)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def guidance(pipe: Any) -> dict[str, Any]:
    if "Flux" in type(pipe).__name__:
        return {"true_cfg_scale": 3.0, "negative_prompt": ""}
    return {"guidance_scale": 3.0, **({"use_resolution_binning": False} if "PixArt" in type(pipe).__name__ else {})}


def guard(pipe: Any, action: str = "warn", **options: Any) -> MemorizationGuard:
    return MemorizationGuard(pipe, action, **{"ordinary": ["a", "b"], "progress": False, "threshold": 1e9, **options})


def network_of(pipe: Any) -> Any:
    return getattr(pipe, "unet", None) or pipe.transformer


def first_step(pipe: Any, run: Callable[[], Any], steps: int) -> list[float]:
    """||cond - uncond|| of each image at the first step of the last run of the pipeline, by a hook of its own."""
    outputs: list[torch.Tensor] = []
    handle = network_of(pipe).register_forward_hook(lambda module, args, output: outputs.append(output[0].detach()))
    run()
    handle.remove()
    if "Flux" in type(pipe).__name__:
        cond, uncond = outputs[-2 * steps], outputs[-2 * steps + 1]
    else:
        uncond, cond = outputs[-steps].chunk(2)
    delta = cond - uncond
    return (delta[:, :4] if delta.ndim == 4 else delta).flatten(1).norm(dim=1).tolist()


# -- is it guided? -----------------------------------------------------------------------------------------------------


def test_flux_without_a_negative_prompt_is_refused_and_with_an_empty_one_measured() -> None:
    """true_cfg_scale alone does not guide: pairs of such steps are no branches."""
    pipe = tiny_family("flux_guided")
    guarded = guard(pipe)
    call = {**CALL, "true_cfg_scale": 3.0, "generator": seeded()}
    with pytest.raises(ValueError, match=r'negative_prompt = None: must be a text, "" for none.*does not guide'):
        guarded("cat", negative_prompt=None, **call)
    embedding = denoiser_of(pipe).unconditional(1).encoder_hidden_states
    with pytest.raises(ValueError, match="negative_pooled_prompt_embeds: must be given together"):
        guarded("cat", negative_prompt_embeds=embedding, **call)
    found = []
    for words in ({"negative_prompt": ""}, {}):  # as the message says; and left out, which is the same
        guarded("cat", **words, **{**call, "generator": seeded()})
        found.append(guarded.report.magnitudes)
    assert found[0] == found[1] and len(found[0]) == CALL["num_inference_steps"]
    run = lambda: pipe("cat", negative_prompt="", **{**call, "generator": seeded()})  # noqa: E731
    assert found[0][0] == pytest.approx(first_step(pipe, run, 5), rel=1e-5)
    assert not pipe.transformer._forward_hooks


@pytest.mark.parametrize(
    ("name", "steps"), [("sd", 1), ("sdxl", 3), ("pixart", 1), ("flux_guided", 1), ("flux_guided", 3)]
)
def test_an_unguided_call_is_known_by_its_calls_of_the_network(name: str, steps: int) -> None:
    """Two images of one noise, so that the halves of each call are equal: still no branches."""
    pipe = tiny_family(name)
    reader = BranchReader(denoiser_of(pipe), 2)
    handle = network_of(pipe).register_forward_hook(
        lambda module, args, kwargs, output: reader.read(args, kwargs, output) and None, with_kwargs=True
    )
    options = {**guidance(pipe), **CALL, "num_inference_steps": steps}
    if "Flux" in type(pipe).__name__:
        options["negative_prompt"] = None
    else:
        options["guidance_scale"] = 1.0

    def run() -> None:
        pipe(["cat", "b"], generator=[seeded(), seeded()], **options)
        reader.finish()

    with pytest.raises(ValueError, match="the pipeline's first step is not guided.*above 1"):
        run()
    handle.remove()


def cut_off(at: int, tensors: list[str]) -> Callable[..., dict[str, Any]]:
    """Guidance off after a step, as diffusers' documentation has it ("dynamic classifier-free guidance")."""

    def callback(pipe: Any, step_index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if step_index == at:
            for name in tensors:
                values[name] = values[name].chunk(2)[-1]
            pipe._guidance_scale = 0.0
        return values

    return callback


TENSORS = {
    "sd": ["prompt_embeds"],
    "sdxl": ["prompt_embeds", "add_text_embeds", "add_time_ids"],
    "sd3": ["prompt_embeds", "pooled_prompt_embeds"],
}


FAST = [("sd", 1, "warn"), ("sd", 2, "delay"), ("sdxl", 2, "minimize"), ("sd3", 1, "minimize"), ("sd3", 2, "warn")]
CUT_OFF = [(n, k, action) for n in TENSORS for k in (1, 2) for action in ("warn", "delay", "minimize")]


def some_slow(cases: list[Any], fast: list[Any]) -> list[Any]:
    """All cases, those that are not ``fast`` marked as slow."""
    return [pytest.param(*case, marks=[] if case in fast else pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(("name", "images", "action"), some_slow(CUT_OFF, FAST))
def test_guidance_that_a_callback_turns_off_is_measured_until_then(name: str, images: int, action: str) -> None:
    pipe = tiny_family(name)
    prompts = ["cat dog", "b"][:images]
    options = {**CALL, **guidance(pipe), "callback_on_step_end": cut_off(1, TENSORS[name]),
               "callback_on_step_end_tensor_inputs": TENSORS[name]}  # fmt: skip
    plain = pipe(prompts, generator=[seeded(i) for i in range(images)], **options).images
    guarded = guard(pipe, action)
    drawn = guarded(prompts, generator=[seeded(i) for i in range(images)], **options).images
    assert torch.equal(drawn, plain), "seen through, nothing changed"
    whole = guard(pipe)
    whole(prompts, generator=[seeded(i) for i in range(images)], **CALL, **guidance(pipe))
    assert len(guarded.report.magnitudes) == 2 and len(whole.report.magnitudes) == 5
    for mine, theirs in zip(guarded.report.magnitudes, whole.report.magnitudes, strict=False):
        assert mine == pytest.approx(theirs, rel=1e-5)
    flagging = guard(pipe, action, threshold=0.5 * min(whole.report.magnitudes[0]), iterations=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = flagging(prompts, generator=[seeded(i) for i in range(images)], **options).images
    assert torch.isfinite(changed).all() and len(flagging.report.magnitudes) == 2
    assert flagging.report.flagged == [True] * images and torch.equal(changed, plain) == (action == "warn")


@pytest.mark.parametrize(
    ("name", "kind"), [("sd", SDCFGCutoffCallback), ("sdxl", SDXLCFGCutoffCallback), ("sd3", SD3CFGCutoffCallback)]
)
def test_diffusers_own_cut_off_callbacks(name: str, kind: Any) -> None:
    pipe = tiny_family(name)
    options = {**CALL, **guidance(pipe), "callback_on_step_end": kind(cutoff_step_index=2, cutoff_step_ratio=None)}
    plain = pipe("cat", generator=seeded(), **options).images
    guarded = guard(pipe)
    assert torch.equal(guarded("cat", generator=seeded(), **options).images, plain)
    assert len(guarded.report.magnitudes) == 3


# -- what else the network is told -------------------------------------------------------------------------------------

SIZES: dict[str, Any] = {
    "original_size": (900, 24), "crops_coords_top_left": (300, 8), "target_size": (700, 500),
    "negative_original_size": (4, 4), "negative_crops_coords_top_left": (90, 0), "negative_target_size": (30, 700),
}  # fmt: skip
CALLS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in MEASURED),
    ("sdxl", SIZES),
    ("sdxl", {**SIZES, "height": 8, "width": 24}),
    ("sdxl", {"original_size": (900, 24)}),
    ("sd", {"guidance_rescale": 0.5, "height": 24}),
    ("sdxl", {"clip_skip": 1}),
    ("sd3", {"height": 24, "max_sequence_length": 100}),
    ("flux_guided", {"width": 24, "max_sequence_length": 64}),
]


TOLD = [(name, told, images) for name, told in CALLS for images in (1, 2)]
TOLD_FAST = [(name, told, images) for name, told, images in TOLD if images == (2 if told else 1)]


@pytest.mark.parametrize(("name", "told", "images"), some_slow(TOLD, TOLD_FAST))
def test_the_minimised_magnitude_is_that_of_the_drawn_image(name: str, told: dict[str, Any], images: int) -> None:
    """What the report says was reached is what the network does in the image that is given back."""
    pipe = tiny_family(name)
    prompts = ["cat dog", "b"][:images]
    options = {**CALL, **guidance(pipe), **told, "num_inference_steps": 2}
    draw = lambda guarded: guarded(prompts, generator=[seeded(i) for i in range(images)], **options)  # noqa: E731
    started = guard(pipe)
    assert first_step(pipe, lambda: draw(started), 2) == pytest.approx(started.report.magnitudes[0], rel=1e-5)
    least = min(started.report.magnitudes[0])
    guarded = guard(pipe, "minimize", threshold=0.999 * least, target=0.95 * least, iterations=4, method="closest")
    seen = first_step(pipe, lambda: draw(guarded), 2)
    assert guarded.report.flagged == [True] * images
    assert guarded.report.minimized == pytest.approx(seen, rel=1e-4)
    assert min(s - m for s, m in zip(started.report.magnitudes[0], seen, strict=True)) > 1e-3, "it did something"


def test_ordinary_prompts_are_told_the_calls_sizes() -> None:
    """The threshold is their magnitude at the sizes of the call; another call's are measured anew."""
    pipe = tiny_family("sdxl")
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    with torch.no_grad():  # a random network hardly listens to them
        pipe.unet.add_embedding.linear_1.weight.mul_(8)
    noise = torch.randn(1, 4, 8, 8, generator=seeded())
    guarded = guard(pipe, threshold=None, ordinary=["a"], false_positive_rate=0.5)
    levels = []
    for sizes in ({}, SIZES, {"original_size": (900, 24)}):
        options = {**CALL, **guidance(pipe), **sizes, "num_inference_steps": 1}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            guarded("b", **options)
        expected = first_step(pipe, lambda: pipe("a", latents=noise, **options), 1)  # noqa: B023
        assert guarded.report.threshold == pytest.approx(expected[0], rel=1e-4)
        levels.append(guarded.report.threshold)
    assert max(levels) > 1.01 * min(levels), "the sizes matter"


def test_minimize_returns_the_sizes_that_it_measured_with() -> None:
    """SDXL at another resolution than its own, through the returned arguments alone."""
    pipe = tiny_family("sdxl")
    model = open_model(pipe, scheduler="own")
    settings = replace(SETTINGS, resolution=32)
    result = minimize(model, "cat dog", 1e-3, iterations=1, settings=settings)
    assert result.arguments["original_size"] == result.arguments["target_size"] == (32, 32)
    seen = first_step(pipe, lambda: pipe(**result.arguments, num_inference_steps=4, output_type="latent"), 4)
    assert seen == pytest.approx(result.magnitude, rel=1e-3)
    assert draw_from(model, result, result.cond, settings).shape == (1, 3, 32, 32)


def test_pixart_keeps_the_size_that_its_pipeline_bins() -> None:
    """Minimising does not turn use_resolution_binning off: the image comes as large as it was asked for."""
    pipe = tiny_family("pixart")
    torch.manual_seed(0)
    config = {name: value for name, value in pipe.transformer.config.items() if name != "_use_default_values"}
    vae = AutoencoderKL(
        block_out_channels=(4,) * 4, norm_num_groups=2, latent_channels=4, sample_size=256,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    transformer = PixArtTransformer2DModel.from_config({**config, "sample_size": 32})
    pipe = type(pipe)(**{**pipe.components, "vae": vae.eval(), "transformer": transformer.eval()})
    pipe.set_progress_bar_config(disable=True)
    shapes: list[torch.Size] = []
    handle = transformer.register_forward_hook(lambda module, args, output: shapes.append(output[0].shape[-2:]))
    options: dict[str, Any] = {"num_inference_steps": 2, "height": 64, "width": 128, "output_type": "pt"}
    plain = pipe("cat", guidance_scale=3.0, generator=seeded(), **options).images
    guarded = guard(pipe, "minimize", threshold=1e-6, target=1e-6, iterations=1)
    drawn = guarded("cat", guidance_scale=3.0, generator=seeded(), **options).images
    handle.remove()
    assert drawn.shape == plain.shape == (1, 3, 64, 128) and len(set(shapes)) == 1, "one size all the way"
    assert guarded.report.flagged == [True]


def test_what_cannot_be_measured_is_refused_with_a_way_out() -> None:
    pipe = tiny_family("sd")
    call = {**CALL, **guidance(pipe)}
    with pytest.raises(ValueError, match="ip_adapter_image_embeds: must be left out; what a picture adds"):
        guard(pipe)("cat", ip_adapter_image_embeds=[torch.zeros(2, 1, 4)], **call)
    with pytest.raises(ValueError, match=r'cross_attention_kwargs: must be left out.*pipe\.set_adapters\("NAME"'):
        guard(pipe)("cat", cross_attention_kwargs={"scale": 0.5}, **call)
    xl = tiny_family("sdxl")
    with pytest.raises(ValueError, match=r"clip_skip = 1: ordinary prompts.*threshold=\.\.\."):
        guard(xl, threshold=None, false_positive_rate=0.5)("cat", clip_skip=1, **call)
    guard(xl, threshold=1e9)("cat", clip_skip=1, **call)  # what the message says
    with pytest.raises(ValueError, match="max_sequence_length = 100: ordinary prompts"):
        guard(tiny_family("sd3"), threshold=None, false_positive_rate=0.5)("cat", max_sequence_length=100, **call)
    guard(tiny_family("sd3"), threshold=None, false_positive_rate=0.5)("cat", max_sequence_length=256, **call)
    reader = BranchReader(denoiser_of(pipe), 3)
    with pytest.raises(ValueError, match=r"called its network with 4 rows for 3 images.*one row an image"):
        reader.read((torch.zeros(4, 4, 8, 8), 1, torch.zeros(4, 16, 16)), {}, (torch.zeros(4, 4, 8, 8),))


def test_a_lora_is_weighted_as_the_refusal_says() -> None:
    """Its weight set before the call is part of the model, in measuring as in drawing."""
    from peft import LoraConfig

    pipe = tiny_family("sd")
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=4, target_modules=["to_k", "to_v"], init_lora_weights=False), "NAME")
    found = []
    for weight in (0.0, 2.0):
        pipe.set_adapters("NAME", weight)
        guarded = guard(pipe)
        guarded("cat", generator=seeded(), **CALL, **guidance(pipe))
        found.append(guarded.report.magnitudes[0][0])
    assert abs(found[1] - found[0]) > 1e-3


# -- inference mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some_slow([(name,) for name in MEASURED], [("sd",), ("sdxl",)]))
def test_minimising_works_under_inference_mode(name: str) -> None:
    pipe = tiny_family(name)
    started = guard(pipe)
    options = {**CALL, **guidance(pipe), "num_inference_steps": 2}
    started("cat dog", generator=seeded(), **options)
    (least,) = started.report.magnitudes[0]
    results = []
    for inside in (False, True):
        with torch.inference_mode(inside):
            guarded = guard(pipe, "minimize", threshold=0.99 * least, target=0.9 * least, iterations=3)
            images = guarded("cat dog", generator=seeded(), **options).images
            again = guarded("cat dog", generator=seeded(), **options).images
        assert torch.equal(images, again)
        results.append((images, guarded.report.minimized))
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5) and results[0][1][0] < least
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-4, atol=1e-4)


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
                less = minimize(model, "cat dog", 1e-3, iterations=2, settings=SETTINGS)
                attacked, losses = attack_embedding(model, target, AttackSettings(updates=2, batch=2))
            found.append([scores[0].score, told.magnitude, less.magnitude[0], *losses])
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
    assert told.magnitude > 0 and len(guarded.report.magnitudes) == 5
