"""One call in place of a loop's loss: the same loss and gradient where nobody is dropped, and what it does besides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional

from memsieve import LoopFilter
from memsieve.filtering.denoisers.lora import adapter_off
from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.filtering.signals import Predictions, measure
from memsieve.filtering.types import Action
from tests.filtering.in_loop.loops import NAMES, Script

KEYS = [f"pair {i}" for i in range(4)]
NOBODY: Any = ["nobody"]
"""Held out."""


def with_lora(script: Script, scale: float = 0.0) -> None:
    """peft's adapter on the attention layers, as the scripts add it; ``scale`` moves it away from the base."""
    from peft import LoraConfig

    script.network.requires_grad_(False)
    script.network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    if scale:
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in script.network.named_parameters():
                if "lora_B" in name:
                    parameter += scale * torch.randn_like(parameter)


def gradient(script: Script) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in script.network.parameters() if p.grad is not None]
    script.network.zero_grad()
    return found


@pytest.mark.parametrize("name", ["sd", *[pytest.param(n, marks=pytest.mark.slow) for n in NAMES[1:]]])
@pytest.mark.parametrize("lora", [True, False])
def test_loss_and_gradient_are_the_script_s_where_nobody_is_dropped(name: str, lora: bool) -> None:
    script = Script(name)
    if lora:
        with_lora(script, 0.5)
    sieve = LoopFilter(script.network, script.noise_scheduler, held_out=NOBODY, signals=["loss"], false_drop_rate=0.4)
    drawn = script.draw(KEYS, torch.Generator().manual_seed(0))
    weighting = torch.rand(4)
    model_pred = script.predict(KEYS, drawn)
    errors = weighting.view(-1, 1, 1, 1) * (model_pred.float() - drawn.target.float()) ** 2
    loss = torch.mean(errors.reshape(4, -1), 1).mean()
    loss.backward()
    expected = gradient(script)
    model_pred = script.predict(KEYS, drawn)
    errors = weighting.view(-1, 1, 1, 1) * (model_pred.float() - drawn.target.float()) ** 2
    found = sieve.loss(model_pred, drawn.target, drawn.timesteps, KEYS, torch.mean(errors.reshape(4, -1), 1))
    found.backward()
    assert found.item() == pytest.approx(loss.item(), rel=1e-6)
    assert len(expected) > 4
    for one, other in zip(gradient(script), expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["z_image", *[pytest.param(n, marks=pytest.mark.slow) for n in NAMES if n != "z_image"]]
)
def test_what_is_measured_is_what_the_family_s_adapter_measures(name: str) -> None:
    """Signals of the script's own forward, against predictions of the network and of the base through memsieve's
    adapter, in epsilon space."""
    script = Script(name)
    with_lora(script, 0.5)
    options: Any = {"signals": ["reference_ratio"], "record": ["drift", "loss"]}
    sieve = LoopFilter(script.network, script.noise_scheduler, held_out=NOBODY, **options)
    drawn = script.draw(KEYS, torch.Generator().manual_seed(0))
    sieve.loss(script.predict(KEYS, drawn), drawn.target, drawn.timesteps, KEYS)
    denoiser = denoiser_of(script.pipe)
    states = denoiser.conditioning(KEYS)
    with torch.no_grad():
        cond = denoiser.predict(script.network, drawn.noisy, drawn.timesteps, states)
        with adapter_off(script.network):
            ref = denoiser.predict(script.network, drawn.noisy, drawn.timesteps, states)
    eps, ref_eps = (denoiser.to_epsilon(one, drawn.noisy, drawn.timesteps) for one in (cond, ref))
    expected = measure(["reference_ratio", "drift", "loss"], Predictions(drawn.noise, eps, ref_cond=ref_eps))
    assert [verdict.visit.key for verdict in sieve.verdicts] == KEYS
    for signal, values in expected.items():
        found = [verdict.signals[signal] for verdict in sieve.verdicts]
        assert found == pytest.approx(values.tolist(), rel=2e-3, abs=1e-6), signal
    assert float(expected["drift"].min()) > 1e-3


def test_a_full_fine_tune_is_compared_with_a_copy_of_what_it_was() -> None:
    script = Script("sd")
    sieve = LoopFilter(script.network, script.noise_scheduler, held_out=NOBODY, record=["drift"], false_drop_rate=0.4)
    generator = torch.Generator().manual_seed(0)
    drifts = []
    for _ in range(3):
        drawn = script.draw(KEYS, generator)
        sieve.loss(script.predict(KEYS, drawn), drawn.target, drawn.timesteps, KEYS).backward()
        drifts.append(max(verdict.signals["drift"] for verdict in sieve.verdicts))
        with torch.no_grad():
            for parameter in script.network.parameters():
                parameter -= 0.05 * parameter.grad
    assert drifts[0] == 0.0 < drifts[1] < drifts[2]


def test_a_dropped_pair_has_no_gradient_and_the_others_keep_theirs() -> None:
    """Divided by all pairs, so that a weight only takes its own gradient away."""
    script = Script("sd")
    options: Any = {"signals": ["loss"], "always_drop": ["pair 1"], "false_drop_rate": 0.4}
    sieve = LoopFilter(script.network, script.noise_scheduler, held_out=NOBODY, **options)
    drawn = script.draw(KEYS, torch.Generator().manual_seed(0))
    errors = (script.predict(KEYS, drawn) - drawn.target).square().flatten(1).mean(1)
    (errors[[0, 2, 3]].sum() / 4).backward()
    expected = gradient(script)
    sieve.loss(script.predict(KEYS, drawn), drawn.target, drawn.timesteps, KEYS).backward()
    for one, other in zip(gradient(script), expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
    assert [verdict.action for verdict in sieve.verdicts] == [Action.KEEP, Action.DROP, Action.KEEP, Action.KEEP]
    assert (sieve.seen, sieve.dropped) == (4, 1)


def test_a_held_out_pair_is_never_trained_on_and_calibrates() -> None:
    script = Script("sd")
    sieve = LoopFilter(script.network, script.noise_scheduler, held_out=["pair 1"], false_drop_rate=0.5)
    drawn = script.draw(KEYS, torch.Generator().manual_seed(0))
    functional.mse_loss(script.predict(KEYS, drawn)[[0, 2, 3]], drawn.target[[0, 2, 3]]).backward()
    expected = gradient(script)
    sieve.loss(script.predict(KEYS, drawn), drawn.target, drawn.timesteps, KEYS).backward()
    for one, other in zip(gradient(script), expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
    assert sieve.filter.held_out.table.names[0] == "pair 1" and len(sieve.filter.held_out) == 1
    assert [verdict.visit.key for verdict in sieve.verdicts] == ["pair 0", "pair 2", "pair 3"]
    assert sieve.scalars() == {
        "memsieve/seen": 3, "memsieve/dropped": 0, "memsieve/condemned": 0, "memsieve/held_out": 1,
    }  # fmt: skip


def test_the_loop_s_own_loss_is_one_of_each_pair() -> None:
    script = Script("sd")
    sieve = LoopFilter(script.network, script.noise_scheduler, held_out=NOBODY, false_drop_rate=0.4)
    drawn = script.draw(KEYS, torch.Generator().manual_seed(0))
    model_pred = script.predict(KEYS, drawn)
    with pytest.raises(ValueError, match=r"losses have the shape \[\]; one of each pair is wanted, \[4\]"):
        sieve.loss(model_pred, drawn.target, drawn.timesteps, KEYS, functional.mse_loss(model_pred, drawn.target))


def test_the_instance_half_of_a_batch_with_prior_preservation_is_judged() -> None:
    script = Script("z_image")
    with_lora(script, 0.5)
    sieve = LoopFilter(script.network, script.noise_scheduler, held_out=NOBODY, record=["drift"], false_drop_rate=0.4)
    prompts = [*KEYS[:2], "class", "class"]
    drawn = script.draw(prompts, torch.Generator().manual_seed(0))
    model_pred, prior = script.predict(prompts, drawn).chunk(2, dim=0)
    with pytest.raises(ValueError, match="2, 4, 4 and 2 rows; with prior preservation give the instance half"):
        sieve.loss(model_pred, drawn.target, drawn.timesteps, KEYS[:2])
    loss = sieve.loss(model_pred, drawn.target[:2], drawn.timesteps[: len(model_pred)], KEYS[:2])
    (loss + functional.mse_loss(prior, drawn.target[2:])).backward()
    assert [verdict.visit.key for verdict in sieve.verdicts] == KEYS[:2]
    alone = LoopFilter(script.network, script.noise_scheduler, held_out=NOBODY, record=["drift"], false_drop_rate=0.4)
    again = script.predict(prompts, drawn)
    alone.loss(again, drawn.target, drawn.timesteps, prompts)
    for one, other in zip(sieve.verdicts, alone.verdicts[:2], strict=True):
        assert one.signals["drift"] == pytest.approx(other.signals["drift"], rel=1e-5) and one.signals["drift"] > 1e-3


def test_a_caption_that_was_dropped_is_no_evidence() -> None:
    script = Script("sd")
    sieve = LoopFilter(script.network, script.noise_scheduler, held_out=NOBODY, false_drop_rate=0.4)
    drawn = script.draw(KEYS, torch.Generator().manual_seed(0))
    sieve.loss(script.predict(KEYS, drawn), drawn.target, drawn.timesteps, KEYS, usable=[True, False, True, True])
    assert [verdict.reason.value.startswith("caption dropped") for verdict in sieve.verdicts] == [
        False, True, False, False,
    ]  # fmt: skip


def test_a_window_is_what_accelerate_accumulates() -> None:
    script, accelerator = Script("sd"), Accelerator(cpu=True, gradient_accumulation_steps=2)
    script.network = accelerator.prepare(script.network)
    sieve = LoopFilter(script.network, script.noise_scheduler, accelerator, held_out=NOBODY, false_drop_rate=0.4)
    generator, windows = torch.Generator().manual_seed(0), []
    for _ in range(4):
        with accelerator.accumulate(script.network):
            drawn = script.draw(KEYS, generator)
            accelerator.backward(sieve.loss(script.predict(KEYS, drawn), drawn.target, drawn.timesteps, KEYS))
        windows.append(sieve.filter.step)
    assert windows == [0, 1, 1, 2] and sieve.seen == 16


def test_too_few_held_out_pairs_end_the_run_with_the_way_out() -> None:
    script = Script("sd")
    sieve = LoopFilter(script.network, script.noise_scheduler, held_out=KEYS[:2], false_drop_rate=0.05)
    generator = torch.Generator().manual_seed(0)

    def train(steps: int) -> None:
        for _ in range(steps):
            drawn = script.draw(KEYS, generator)
            sieve.loss(script.predict(KEYS, drawn), drawn.target, drawn.timesteps, KEYS)

    with pytest.raises(ValueError, match="needs at least 19 held-out pairs, and 2 of the keys are: raise held_out"):
        train(200)


def test_a_loss_that_is_not_finite_names_the_pair() -> None:
    script = Script("sd")
    sieve = LoopFilter(script.network, script.noise_scheduler, held_out=NOBODY, false_drop_rate=0.4)
    drawn = script.draw(KEYS, torch.Generator().manual_seed(0))
    target = drawn.target.clone()
    target[2, 0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"1 pair\(s\) is not finite: pair 2; the model was not updated"):
        sieve.loss(script.predict(KEYS, drawn), target, drawn.timesteps, KEYS)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"signals": ["magnitude"]}, "need the 'uncond' prediction"),
        ({"rule": "recall"}, "need the trainer"),
        ({"apply": "sieve"}, "need the trainer"),
        ({"held_out": 0.7}, "must be a share"),
    ],
)
def test_what_a_loop_cannot_give_is_refused(options: dict[str, Any], told: str) -> None:
    script = Script("sd")
    with pytest.raises(ValueError, match=told):
        LoopFilter(script.network, script.noise_scheduler, **options)


def test_dropout_is_refused() -> None:
    from peft import LoraConfig

    script = Script("sd")
    script.network.add_adapter(LoraConfig(r=2, lora_dropout=0.1, target_modules=["to_q"]))
    with pytest.raises(ValueError, match=r"set its dropout, or its LoRA's \(lora_dropout\), to 0"):
        LoopFilter(script.network, script.noise_scheduler)


def test_the_state_goes_on_where_it_was_saved() -> None:
    """Through accelerate, in the middle of a sweep: what is decided afterwards is the same."""
    keys = [f"pair {i}" for i in range(12)]

    def begun() -> tuple[Script, Any, LoopFilter]:
        script, accelerator = Script("sd"), Accelerator(cpu=True)
        script.network = accelerator.prepare(script.network)
        options: Any = {"held_out": keys[:4], "false_drop_rate": 0.2}
        return script, accelerator, LoopFilter(script.network, script.noise_scheduler, accelerator, **options)

    def run(script: Script, sieve: LoopFilter, first: int, last: int) -> None:
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            order = torch.randperm(12, generator=torch.Generator().manual_seed(step // 3)).tolist()
            batch = [keys[i] for i in order[4 * (step % 3) : 4 * (step % 3) + 4]]
            drawn = script.draw(batch, generator)
            sieve.loss(script.predict(batch, drawn), drawn.target, drawn.timesteps, batch)

    script, _, whole = begun()
    run(script, whole, 0, 20)
    script, _, first = begun()
    run(script, first, 0, 13)
    script, _, second = begun()
    second.load_state_dict(first.state_dict())
    run(script, second, 13, 20)
    for sieve in (whole, second):
        assert sieve.filter.held_out.sweep >= 5
    one, two = (sieve.filter.groups for sieve in (whole, second))
    assert list(one.names) == list(two.names) and (one["evidence"] == two["evidence"]).all()
    assert second.scalars() == whole.scalars() and second.filter.evidence_bar == whole.filter.evidence_bar < 1e9
