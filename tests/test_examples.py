"""The examples of docs/examples, run as a reader would run them: with one process and with two."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file

from memsieve import MemorizationFilter, Predictions, Visit, content_key
from memsieve.filtering.data.openmoji import draw_pictures
from memsieve.filtering.data.openmoji.names import list_emoji, miniature
from memsieve.filtering.in_loop.held_out import HeldOutShare
from tests.tiny_models import LETTERS, tiny_pipeline
from tests.train.conftest import free_port

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"


def image_folder(folder: Path, count: int, first: int = 0, copies: int = 0) -> Path:
    """Distinct 16x16 pictures, and further copies of the first one, as the imagefolder loader reads them."""
    folder.mkdir(parents=True)
    lines = []
    for place in range(count + copies):
        number = first + (place if place < count else 0)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place:04d}.png")
        lines.append(json.dumps({"file_name": f"{place:04d}.png", "text": f"pair {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def emoji_folder(folder: Path, first: int, count: int, copies: int = 0) -> Path:
    """OpenMoji pictures, and further copies of the first one."""
    pictures, _ = draw_pictures(miniature(list_emoji(), 0, 400), 32, True, None)
    chosen = [picture for picture in pictures if picture.vivid][first : first + count]
    folder.mkdir(parents=True)
    lines = []
    for place, picture in enumerate([*chosen, *[chosen[0]] * copies]):
        (folder / f"{place:04d}.png").write_bytes(picture.png)
        lines.append(json.dumps({"file_name": f"{place:04d}.png", "text": picture.caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example") / "model"
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    tiny_pipeline(scheduler, letters=LETTERS + "0123456789").save_pretrained(folder, safe_serialization=True)
    return folder


def run(name: str, ranks: int, *arguments: str) -> list[str]:
    """The last lines of an example's ranks."""
    launch = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", f"--master_port={free_port()}"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *(launch if ranks > 1 else []), str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    # Ranks share one output: what they say at the same moment can come in one line.
    lines = sorted(re.findall(r"rank \d+: .*?(?=rank \d+: |$)", done.stdout, re.MULTILINE))
    assert len(lines) == ranks, done.stdout
    return lines


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_full_fine_tune(model: Path, tmp_path: Path, ranks: int) -> None:
    """Every image is one group however often it is there; the state and the pipeline are what plain diffusers saves."""
    data = image_folder(tmp_path / "data", 24, copies=8)
    steps = 12 // ranks
    lines = run(
        "filter_in_your_loop.py", ranks, "--pretrained_model_name_or_path", str(model), "--train_data_dir", str(data),
        "--output_dir", str(tmp_path / "out"), "--resolution", "16", "--train_batch_size", "8",
        "--max_train_steps", str(steps), "--gradient_accumulation_steps", "1", "--learning_rate", "1e-3",
    )  # fmt: skip
    assert all(line.endswith(" 24 images") and re.search(r"loss \d", line) for line in lines), lines
    state = torch.load(tmp_path / "out" / "state" / "custom_checkpoint_0.pkl", weights_only=True)
    assert len(state["groups"]["names"]["keys"]) == 24, "the filter of all ranks is in the state"
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    assert pipe.unet.config.sample_size == 8


@pytest.mark.trains
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_lora_fine_tune(tmp_path: Path, ranks: int) -> None:
    """The planted picture, which the adapter learns by heart, is condemned, by its content, first and on all ranks
    alike; of the others, of which the rate of .05 allows one or two on average, three at most."""
    model = ROOT / "assets" / "tiny-sd"
    data = emoji_folder(tmp_path / "data", 0, 56, copies=104)
    keys = [content_key(Image.open(path)) for path in sorted(data.glob("*.png"))]
    planted, held_out = keys[0], {key for key in keys if key in HeldOutShare(0.45)}
    assert planted not in held_out and len(held_out) >= 19
    lines = run(
        "filter_in_a_lora_loop.py", ranks, "--pretrained_model_name_or_path", str(model), "--train_data_dir", str(data),
        "--held_out", "0.45", "--output_dir", str(tmp_path / "out"), "--resolution", "32",
        "--train_batch_size", str(32 // ranks), "--max_train_steps", str(30), "--learning_rate", "1e-2",
        "--target_modules", "to_k", "to_q", "to_v", "to_out.0", "conv1", "conv2", "conv_out",
    )  # fmt: skip
    (told,) = {line.partition("condemned: ")[2] for line in lines}
    first, *others = told.split()
    assert first == planted and len(others) <= 3, lines
    dropped = [int(re.search(r"(\d+) of \d+ visits dropped", line).group(1)) for line in lines]  # type: ignore[union-attr]
    assert all(count > 0 for count in dropped) and len(set(dropped)) == 1
    state = torch.load(tmp_path / "out" / "state" / "custom_checkpoint_0.pkl", weights_only=True)["filter"]
    assert len(state["groups"]["names"]["keys"]) == 56 - len(held_out) and planted in state["condemned"]
    pipe = StableDiffusionPipeline.from_pretrained(model)
    pipe.load_lora_weights(str(tmp_path / "out"))
    loaded = get_peft_model_state_dict(pipe.unet, adapter_name="default_0")
    assert len(loaded) == len(load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")) > 60
    assert all(bool(value.any()) for value in loaded.values()), "a layer was not loaded"


@pytest.mark.parametrize(("name", "most"), [("filter_in_your_loop.py", 11), ("filter_in_a_lora_loop.py", 8)])
def test_the_filter_is_a_handful_of_lines(name: str, most: int) -> None:
    lines = (EXAMPLES / name).read_text().splitlines()
    assert 5 <= sum(bool(re.search(r"  # \+( |$)", line)) for line in lines) <= most


@pytest.mark.parametrize("side", [8, 64])
def test_the_settings_of_the_loop_by_hand_hold_for_any_latent_size(side: int) -> None:
    """On latents of any size ordinary visits pass, and one whose caption says three times as much does not."""
    (setup,) = re.findall(r"sieve = (.*)  # \+", (EXAMPLES / "filter_in_your_loop.py").read_text())
    sieve: MemorizationFilter = eval(setup, {"MemorizationFilter": MemorizationFilter})
    generator = torch.Generator().manual_seed(0)
    kept, planted = [], []
    for window in range(60):
        noise = torch.zeros(4, 4, side, side)
        apart = 0.02 * (1 + 0.1 * torch.randn(4, generator=generator))
        apart[3] *= 3 if window % 10 == 9 else 1
        measured = sieve.measure(Predictions(noise, noise + apart.view(-1, 1, 1, 1), noise), torch.arange(4) * 180)
        weights = sieve.decide([Visit(key) for key in "abcd"], measured).weights.tolist()
        sieve.end_window()
        kept, planted = [*kept, *weights[:3]], [*planted, *weights[3:]]
    assert np.mean(kept[60:]) > 0.9 and not any(planted[29::10])
