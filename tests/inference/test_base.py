"""The model before fine-tuning, found and asked: by a folder, by a pipeline, by a LoRA switched off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from memsieve.filtering.denoisers.lora import LoraSettings, add_lora
from memsieve.filtering.denoisers.lora_files import KOHYA_FILE, export_lora
from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.inference.base import base_of_model
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.generate import load_pipeline
from memsieve.inference.opened import open_model
from tests.inference.memorised import make_pipeline
from tests.inference.tuned import moved
from tests.tiny_models import LETTERS, tiny_pipeline

PROMPTS = ["cat", "a dog on a log", "z"]
SETTINGS = {"steps": 3, "schedule_steps": 10, "images_per_prompt": 2, "guidance_scale": 5.0, "seed": 7}


@pytest.fixture
def tuned(build_pipeline: Callable[..., Any], model_folder: Path, tmp_path: Path) -> Path:
    """The model of ``model_folder`` after a step somewhere."""
    pipe = build_pipeline()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter) * parameter.std().nan_to_num())
    pipe.save_pretrained(tmp_path / "run" / "pipeline")
    return tmp_path / "run" / "pipeline"


@pytest.fixture
def lora(model_folder: Path, tmp_path: Path) -> Path:
    """An adapter of ``model_folder`` that does something."""
    denoiser = open_denoiser(str(model_folder))
    add_lora(denoiser, LoraSettings(rank=2), seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    export_lora(denoiser, tmp_path / "lora", denoiser.model, str(model_folder))
    return tmp_path / "lora"


def measured(model: Any, detector: str, prompts: list[str] = PROMPTS, batch: int = 4) -> list[dict[str, Any]]:
    settings = DetectSettings(detector=detector, **SETTINGS)
    return [found.per_step for found in measure_prompts(model, prompts, settings, batch)]


def test_drift_and_anchored_magnitude_equal_a_plain_loop(tuned: Path, model_folder: Path) -> None:
    """By both UNets at the inputs of the fine-tuned model's own trajectory; per element."""
    model = open_model(tuned, base=str(model_folder))
    before = open_denoiser(str(model_folder))
    found = measured(model, "against_base")
    for prompt, per_step in zip(PROMPTS, found, strict=True):
        for j in range(2):
            noise = model.noise([prompt], [j], 7)
            cond, uncond = model.encode([prompt]), model.unconditional(1)
            steps = model.trajectory(noise, cond, uncond, steps=3, schedule_steps=10, guidance_scale=5.0)
            for k, step in enumerate(steps):
                with torch.no_grad():
                    times = step.timestep.expand(1)
                    theirs = [
                        before.model(step.model_input, times, encoder_hidden_states=states.encoder_hidden_states).sample
                        for states in (before.conditioning([prompt]), before.unconditional(1))
                    ]
                rms = [float((step.cond - other).square().mean().sqrt()) for other in theirs]
                assert per_step["drift"][j, k] == pytest.approx(rms[0], rel=1e-4)
                assert per_step["anchored_magnitude"][j, k] == pytest.approx(rms[1], rel=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_model_has_not_drifted_from_itself(build_pipeline: Callable[..., Any], prediction_type: str) -> None:
    pipe, same = (build_pipeline(prediction_type) for _ in range(2))
    model = open_model(pipe, base=same)
    drift = [values["drift"] for values in measured(model, "drift")]
    assert all(float(values.max()) < 1e-5 for values in drift)
    plain = measured(model, "magnitude")
    elements = float(model.noise(["cat"], [0], 0)[0].numel())
    for own, anchored in zip(plain, measured(model, "anchored_magnitude"), strict=True):
        assert anchored["anchored_magnitude"] * elements**0.5 == pytest.approx(own["magnitude"], rel=1e-3)


def test_batches_images_and_prompts_that_leave_early_do_not_matter(tuned: Path, model_folder: Path) -> None:
    model = open_model(tuned, base=str(model_folder))
    one, other = measured(model, "against_base", batch=6), measured(model, "against_base", PROMPTS[::-1], batch=2)
    for a, b in zip(one, other[::-1], strict=True):
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=1e-3)


def test_a_lora_needs_no_second_model(lora: Path, model_folder: Path) -> None:
    """The adapter switched off is the base, and switched on the fused model, to rounding."""
    assert base_of_model(lora) == str(model_folder.resolve())
    switched = open_model(lora, base=base_of_model(lora))
    assert switched.base is not None and switched.base.denoiser is switched.denoiser
    apart = open_model(lora, base=str(model_folder.parent / "." / model_folder.name))
    for name in ("against_base", "magnitude"):
        for a, b in zip(measured(switched, name), measured(apart, name), strict=True):
            for measure in a:
                assert a[measure] == pytest.approx(b[measure], rel=2e-3)
    assert measured(switched, "drift")[0]["drift"].min() > 1e-3


def test_a_loras_file_is_opened_in_the_base_named_with_it(lora: Path, model_folder: Path, tmp_path: Path) -> None:
    """Behind it, or by --base; a file in kohya's names, as other programs hand it on, without its folder."""
    file = tmp_path / "mine.safetensors"
    file.write_bytes((lora / KOHYA_FILE).read_bytes())
    named = f"{file}::{model_folder}"
    assert base_of_model(named) == str(model_folder)
    switched = open_model(file, base=str(model_folder))
    assert switched.base is not None and switched.base.denoiser is switched.denoiser
    expected = measured(open_model(lora, base=base_of_model(lora)), "against_base")
    for model in (switched, open_model(named, base=base_of_model(named))):
        for a, b in zip(measured(model, "against_base"), expected, strict=True):
            for measure in a:
                assert a[measure] == pytest.approx(b[measure], rel=2e-3)
    noise = {"num_inference_steps": 2, "output_type": "pt"}
    drawn = []
    for pipe in (load_pipeline(named), load_pipeline(file, base=str(model_folder)), load_pipeline(lora)):
        drawn.append(pipe("cat", generator=torch.Generator().manual_seed(0), **noise).images)
    assert torch.allclose(drawn[0], drawn[1]) and torch.allclose(drawn[0], drawn[2], atol=1e-4)
    with pytest.raises(ValueError, match=r"--model: '.*mine.safetensors' holds a LoRA, and no base_model.json"):
        base_of_model(file)


def test_a_lora_of_text_encoders_too_is_no_base_switched_off(lora: Path, model_folder: Path, tmp_path: Path) -> None:
    """The base is opened by itself, and encodes prompts by encoders of its own."""
    state = load_file(lora / KOHYA_FILE)
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        layer = f"lora_te_text_model_encoder_layers_0_self_attn_{part}"
        state |= {f"{layer}.lora_down.weight": torch.randn(2, 16), f"{layer}.lora_up.weight": torch.randn(16, 2)}
        state[f"{layer}.alpha"] = torch.tensor(2.0)
    save_file(state, tmp_path / "text.safetensors")
    model = open_model(tmp_path / "text.safetensors", base=str(model_folder))
    assert model.base is not None and model.base.denoiser is not model.denoiser and not model.base.same_text
    before = open_denoiser(str(model_folder)).conditioning(["cat"]).encoder_hidden_states
    assert torch.equal(model.base.encode(["cat"]).encoder_hidden_states, before)
    assert not torch.allclose(model.encode(["cat"]).encoder_hidden_states, before, atol=1e-3)


def test_a_runs_pipeline_says_what_it_was_made_of(tuned: Path, model_folder: Path, tmp_path: Path) -> None:
    assert base_of_model(tuned) is None
    config = tuned.parent / "config.yaml"
    for path, found in ((str(model_folder), str(model_folder)), ("someone/base", "someone/base"),
                        ("gone/from/here", None), (7, None)):  # fmt: skip
        config.write_text(yaml.safe_dump({"model": {"path": path}}))
        assert base_of_model(tuned) == found
    for text in ("model: [", "[]", "{}"):
        config.write_text(text)
        assert base_of_model(tuned) is None
    assert base_of_model(model_folder) is None


def test_text_encoders_are_compared_by_what_they_say(build_pipeline: Callable[..., Any], model_folder: Path) -> None:
    """The same to rounding in half precision; not where one was fine-tuned, or knows other words."""
    pipe = build_pipeline()
    cases = {
        True: [str(model_folder), build_pipeline(), moved(pipe)],
        False: [moved(pipe, "text_encoder", by=0.05), make_pipeline_of_other_words()],
    }
    for same, bases in cases.items():
        for base in bases:
            found = open_model(pipe, base=base).base
            assert found is not None and found.same_text is same
    half = open_model(build_pipeline().to(torch.bfloat16), base=str(model_folder)).base
    assert half is not None and half.same_text
    assert next(half.network.parameters()).dtype == torch.bfloat16, "the base is opened in the pipeline's precision"


def make_pipeline_of_other_words() -> Any:
    """The same weights, and a tokenizer that gives letters other numbers."""
    pipe, other = make_pipeline(), tiny_pipeline(make_pipeline().scheduler, letters=LETTERS[::-1] + "0123456789.,!<>/")
    pipe.tokenizer = other.tokenizer
    return pipe


def test_a_base_that_is_none_of_it_is_refused(
    tuned: Path, model_folder: Path, build_pipeline: Callable[..., Any], tmp_path: Path
) -> None:
    other = build_pipeline("v_prediction")
    other.save_pretrained(tmp_path / "v")
    with pytest.raises(ValueError, match=r"--base: .* has another prediction type than the model"):
        open_model(build_pipeline(), base=other)
    strange = build_pipeline(seed=3)
    with pytest.raises(ValueError, match=r"--base: .* has another VAE than the model"):
        open_model(tuned, base=strange)
    with pytest.raises(ValueError, match="--base: 'nowhere'"):
        open_model(tuned, base="nowhere")


def test_without_a_base_what_compares_with_it_is_refused(tuned: Path) -> None:
    with pytest.raises(ValueError, match="drift compares with the model before fine-tuning: name it with --base"):
        measured(open_model(tuned), "drift")


def test_at_one_step_the_drift_costs_no_forward_more_than_the_magnitude(tuned: Path, model_folder: Path) -> None:
    """Two rows of a network for each image, as of the paper's; with two steps three at each."""
    model = open_model(tuned, base=str(model_folder))
    assert model.base is not None
    rows: list[int] = []
    for network in (model.model, model.base.network):
        network.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    counted = {}
    for detector in ("magnitude", "drift"):
        for steps in (1, 2):
            rows.clear()
            settings = DetectSettings(detector=detector, steps=steps, schedule_steps=10)
            list(measure_prompts(model, ["cat"], settings))
            counted[detector, steps] = sum(rows)
    assert counted == {("magnitude", 1): 2, ("magnitude", 2): 4, ("drift", 1): 2, ("drift", 2): 6}
