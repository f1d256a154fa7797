"""An adapter in a network: what is trained, and how it is switched off."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from memsieve.filtering.denoisers.lora import (
    AdapterOff,
    LoraSettings,
    adapter_off,
    add_lora,
    trained_parameters,
)
from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.filtering.settings import SettingsError
from tests.tiny_models import recent_slow, tiny_family


def adapted(name: str, seed: int = 0, **settings: Any) -> Any:
    """A family's denoiser with an adapter that does something: B starts at zero."""
    denoiser = denoiser_of(tiny_family(name))
    add_lora(denoiser, LoraSettings.model_validate({"rank": 2, **settings}), seed)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trained_parameters(denoiser.model):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return denoiser


def predicted(denoiser: Any, model: torch.nn.Module | None = None) -> torch.Tensor:
    noisy = torch.randn(1, *denoiser.latent_shape(32), generator=torch.Generator().manual_seed(0))
    t = denoiser.timesteps_at(torch.tensor([500]))
    with torch.no_grad():
        found: torch.Tensor = denoiser.predict(model or denoiser.model, noisy, t, denoiser.conditioning(["cat"]))
    return found


def layers(model: torch.nn.Module, part: str) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if f".lora_{part}." in name}


# -- put in ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recent_slow())
def test_every_layer_that_a_family_names_is_there_and_the_adapter_alone_is_trained(name: str) -> None:
    """A new one changes nothing yet."""
    denoiser = denoiser_of(tiny_family(name))
    before = predicted(denoiser)
    names = [part for part, _ in denoiser.model.named_modules()]
    assert all(any(f".{part}".endswith(f".{target}") for part in names) for target in denoiser.lora_targets)
    add_lora(denoiser, LoraSettings(rank=2), seed=0)
    assert torch.equal(predicted(denoiser), before)
    trained = {part for part, value in denoiser.model.named_parameters() if value.requires_grad}
    assert trained == {*layers(denoiser.model, "A"), *layers(denoiser.model, "B")} and trained
    assert all(any(f".{target}.lora_" in f".{part}" for target in denoiser.lora_targets) for part in trained)


def test_the_adapter_is_in_single_precision_over_a_base_in_half() -> None:
    denoiser = denoiser_of(tiny_family("sd"))
    denoiser.model.to(torch.bfloat16)
    add_lora(denoiser, LoraSettings(rank=2), seed=0)
    assert {value.dtype for value in trained_parameters(denoiser.model)} == {torch.float32}
    assert {value.dtype for value in denoiser.model.parameters() if not value.requires_grad} == {torch.bfloat16}


def test_the_adapter_is_drawn_from_the_seed_and_nothing_else() -> None:
    found = []
    for other, seed in ((1, 7), (2, 7), (2, 8)):
        torch.manual_seed(other)
        denoiser = denoiser_of(tiny_family("sd"))
        torch.manual_seed(other)
        state = torch.random.get_rng_state()
        add_lora(denoiser, LoraSettings(rank=2), seed)
        assert torch.equal(torch.random.get_rng_state(), state), "the run's own draws go on as without it"
        found.append(layers(denoiser.model, "A"))
        assert not any(value.any() for value in layers(denoiser.model, "B").values())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert not any(torch.equal(value, found[2][name]) for name, value in found[0].items())


def test_how_it_is_drawn_is_the_examples_normal_or_pefts_default() -> None:
    """Deviation 1 / rank; and bounded by one over the root of the width."""
    spread = {}
    for init in ("gaussian", "default"):
        denoiser = denoiser_of(tiny_family("sd"))
        add_lora(denoiser, LoraSettings.model_validate({"rank": 8, "init": init}), seed=0)
        spread[init] = torch.cat([value.flatten() for value in layers(denoiser.model, "A").values()])
    assert float(spread["gaussian"].std()) == pytest.approx(1 / 8, rel=0.1)
    assert float(spread["gaussian"].abs().max()) > 0.3 > float(spread["default"].abs().max())


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (2, 0.5), (8, 2.0)])
def test_the_output_is_multiplied_by_alpha_over_rank(alpha: int | None, scale: float) -> None:
    """W x + (alpha / rank) B A x, of one layer."""
    denoiser = adapted("sd", rank=4, alpha=alpha, target_modules=["to_k"])
    layer = next(part for name, part in denoiser.model.named_modules() if name.endswith(".to_k"))
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(1))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert torch.allclose(layer(x), layer.base_layer(x) + scale * x @ a.T @ b.T, atol=1e-6)


def test_layers_that_no_network_has_are_refused_with_those_it_has() -> None:
    denoiser = denoiser_of(tiny_family("sd"))
    with pytest.raises(
        SettingsError,
        match=r"model\.lora\.target_modules: \['nothing'\] cannot be adapted in a UNet2D.*end in .*conv_in.*, to_k",
    ):
        add_lora(denoiser, LoraSettings(target_modules=["nothing"]), seed=0)


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"target_modules": []}, {"init": "pissa"}]
)
def test_settings_that_make_no_adapter_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoraSettings.model_validate(wrong)


def test_without_peft_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = denoiser_of(tiny_family("sd"))
    monkeypatch.setitem(sys.modules, "peft", None)  # as where it is not installed
    with pytest.raises(SettingsError, match=r"model\.lora needs peft.*pip install .*\[lora\]'"):
        add_lora(denoiser, LoraSettings(), seed=0)


# -- switched off ------------------------------------------------------------------------------------------------------


def test_switched_off_it_is_the_base_and_on_again_whatever_happens_meanwhile() -> None:
    base, denoiser = denoiser_of(tiny_family("sd")), adapted("sd")
    on = predicted(denoiser)
    assert (on - predicted(base)).abs().max() > 1e-3
    assert torch.equal(predicted(denoiser, AdapterOff(denoiser.model)), predicted(base))
    assert torch.equal(predicted(denoiser), on)
    with pytest.raises(ZeroDivisionError), adapter_off(denoiser.model):
        _ = 1 / 0
    assert torch.equal(predicted(denoiser), on)


def test_a_network_without_an_adapter_is_refused() -> None:
    denoiser = denoiser_of(tiny_family("sd"))
    with pytest.raises(ValueError, match="no LoRA adapter to switch off"), adapter_off(denoiser.model):
        pass
