"""Generation with a tiny random Stable Diffusion pipeline: seeds, batches, and what is given back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline

from memsieve.inference.generate import GenerateSettings, generate, image_seed, load_pipeline
from tests.tiny_models import tiny_pipeline

PROMPTS = ["cat", "a dog", "tac"]
TWO = GenerateSettings(steps=2)


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    return tiny_pipeline(PNDMScheduler(skip_prk_steps=True, steps_offset=1))


def test_batch_size_does_not_matter(pipe: StableDiffusionPipeline) -> None:
    one, five = (generate(pipe, PROMPTS, 2, replace(TWO, batch=batch), progress=False) for batch in (1, 5))
    assert one.shape == (6, 3, 16, 16) and one.dtype == torch.float32
    assert one.min() >= -1 and one.max() <= 1
    assert torch.allclose(one, five, atol=1e-4)
    assert not torch.allclose(one[0], one[1], atol=1e-2), "two seeds of a prompt differ"


def test_the_seed_matters_and_repeats(pipe: StableDiffusionPipeline) -> None:
    first = generate(pipe, ["cat"], settings=replace(TWO, seed=3), progress=False)
    assert torch.equal(first, generate(pipe, ["cat"], settings=replace(TWO, seed=3), progress=False))
    assert not torch.allclose(first, generate(pipe, ["cat"], settings=replace(TWO, seed=4), progress=False), atol=1e-2)
    assert len({image_seed(seed, index, j) for seed in range(5) for index in range(5) for j in range(5)}) == 125


def test_the_pipeline_comes_back_as_it_was(pipe: StableDiffusionPipeline) -> None:
    pipe.unet.train()
    pipe.unet.mid_block.eval()
    own, used = pipe.scheduler, []
    call = DDIMScheduler.set_timesteps

    def spy(self: DDIMScheduler, *args: object, **options: object) -> None:
        used.append((pipe.scheduler.config.clip_sample, pipe.unet.training))
        call(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DDIMScheduler, "set_timesteps", spy)
        generate(pipe, ["cat"], settings=GenerateSettings(steps=1), progress=False)
    assert used == [(False, False)], "DDIM, unclipped latents, evaluation mode"
    assert pipe.scheduler is own and pipe.unet.training and not pipe.unet.mid_block.training
    pipe.unet.eval()


def test_own_scheduler_and_options(pipe: StableDiffusionPipeline) -> None:
    settings = GenerateSettings(steps=2, scheduler="own", call={"height": 32, "width": 16})
    images = generate(pipe, ["cat"], settings=settings, progress=False)
    assert images.shape == (1, 3, 32, 16)


def test_from_a_folder(pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "tiny")
    assert json.loads((tmp_path / "tiny" / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    loaded = generate(tmp_path / "tiny", ["cat"], settings=TWO, progress=False)
    assert torch.allclose(loaded, generate(pipe, ["cat"], settings=TWO, progress=False), atol=1e-4)


def test_refusals(pipe: StableDiffusionPipeline, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no diffusers pipeline"):
        load_pipeline(tmp_path)
    with pytest.raises(ValueError, match="batch = 0"):
        GenerateSettings(batch=0)
    with pytest.raises(ValueError, match="list of at least one"):
        generate(pipe, "cat")
    with pytest.raises(ValueError, match="must be one of"):
        generate(pipe, ["cat"], settings=GenerateSettings(scheduler="ancestral"))
