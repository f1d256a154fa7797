"""LoRA on every model family: the step is plain peft's, the reference is the base, the export loads in diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import PeftModel

from memsieve.filtering.denoisers.lora import trained_parameters
from memsieve.filtering.denoisers.lora_files import LORA_FILE
from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.filtering.signals import SIGNALS
from memsieve.inference.generate import load_pipeline
from memsieve.train.loop import fit, window_batches
from memsieve.train.set_up import set_up
from tests.guided_calls import guidance
from tests.tiny_models import DISTILLED, recent_slow, side_of, tiny_family
from tests.train.conftest import tiny_config


@pytest.mark.parametrize("name", recent_slow())
def test_a_family_trains_its_adapter(name: str, shards: Path, tmp_path: Path) -> None:
    """With the filter on, its reference being the network with the adapter switched off."""
    tiny_family(name).save_pretrained(tmp_path / "base", safe_serialization=True)
    record = [] if name in DISTILLED else ["magnitude"]
    config = tiny_config(
        tmp_path / "base",
        shards,
        tmp_path / "run",
        model={"lora": {"rank": 2, "alpha": 4}, "gradient_checkpointing": True},
        filter={"signals": ["reference_residual"], "record": record},
        train={"steps": 3},
        optimizer={"lr": 3e-2},
        data={"resolution": side_of(name)},
        validation={"prompts": ["a cat"], "sampling_steps": 1, "held_out_pairs": 4, "held_out_draws": 1},
        checkpoint={"export": True},
    )
    session = set_up(config)
    assert 0 < len(trained_parameters(session.model)) < len(list(session.model.parameters()))
    batch = window_batches(session, next(iter(session.loader)))[0]
    summary = fit(session)
    assert summary["remainder"] == 0 and summary["updates"] == 3
    still = [name for name, p in session.model.named_parameters() if p.requires_grad and not p.detach().any()]
    assert all("add_q_proj" in name for name in still), "only the text's last queries, which SD3 and Flux leave unused"
    base = open_denoiser(str(tmp_path / "base"))
    assert session.scorer is not None and set(SIGNALS) >= set(session.scorer.measure(batch).signals)
    with torch.no_grad():
        inputs = batch.noisy, batch.timesteps, batch.conditioning
        expected = base.predict(base.model.eval(), *inputs)
        off = session.denoiser.predict(session.scorer.reference, *inputs)
        on = session.denoiser.predict(session.model.eval(), *inputs)
    assert float((off - expected).abs().max()) < 1e-6 < 1e-3 < float((on - expected).abs().max())
    assert drawn_alike(name, session, tmp_path / "base", config.output / "lora")


def drawn_alike(name: str, session: Any, base: Path, lora: Path) -> bool:
    """The plain pipeline with the LoRA loaded draws what the network in training draws."""
    plain = DiffusionPipeline.from_pretrained(base)
    if name == "pixart":
        plain.transformer = PeftModel.from_pretrained(plain.transformer, lora)
    else:
        assert (lora / LORA_FILE).is_file()
        plain.load_lora_weights(str(lora))
    drawn = []
    trained = session.denoiser.pipeline(session.model.eval())
    for pipe in (trained, plain, open_denoiser(str(lora)).pipeline(), load_pipeline(lora)):
        pipe.scheduler = session.denoiser.sampler()
        pipe.set_progress_bar_config(disable=True)
        side = side_of(name)
        options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "np", "height": side, "width": side}
        options |= guidance(pipe, 1.0 if name in DISTILLED else 3.0)
        drawn.append(pipe(prompt="a cat", generator=torch.Generator().manual_seed(0), **options).images)
    return all(np.abs(images - drawn[0]).max() < 1e-4 for images in drawn)
