"""Whether a step is guided is seen in the network's own calls, whatever callbacks do meanwhile."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.callbacks import SD3CFGCutoffCallback, SDCFGCutoffCallback, SDXLCFGCutoffCallback

from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.inference.guard.branches import BranchReader
from memsieve.inference.guard.settings import GuardSettings
from memsieve.inference.minimize.settings import MinimizeSettings
from tests.inference.guard.calls import CALL, guard, guidance, network_of, seeded, some_slow
from tests.tiny_models import tiny_family


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
    three = GuardSettings(minimize=MinimizeSettings(iterations=3))
    whole(prompts, generator=[seeded(i) for i in range(images)], **CALL, **guidance(pipe))
    assert len(guarded.report.magnitudes) == 2 and len(whole.report.magnitudes) == 5
    for mine, theirs in zip(guarded.report.magnitudes, whole.report.magnitudes, strict=False):
        assert mine == pytest.approx(theirs, rel=1e-5)
    flagging = guard(pipe, action, threshold=0.5 * min(whole.report.magnitudes[0]), settings=three)
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
