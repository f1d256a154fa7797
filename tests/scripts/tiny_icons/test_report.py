"""What is measured of a base, and a card that says it: on a pipeline of the real sizes whose weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from scripts.base_model.models import load_pipeline, new_models, save_pipeline, train_tokenizer
from scripts.tiny_icons import report
from scripts.tiny_icons.build import ICONS
from scripts.tiny_icons.judge import train_judge
from scripts.tiny_icons.pictures import SIZE, Pictures, Shown
from scripts.tiny_icons.report import measure, model_card, sample_grid
from scripts.tiny_icons.sets import BASE

WORDS = ("apple", "car", "moon", "tree", "fish", "bell", "door", "lamp", "ring", "star", "shoe", "boat", "bird", "cake",
         "drum", "fire", "gift", "hand", "iron", "jar", "key", "leaf")  # fmt: skip


def shown(style: str, seed: int) -> list[Shown]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Shown(
            torch.randint(0, 256, (3, SIZE, SIZE), dtype=torch.uint8, generator=generator),
            f"{word}, red, {style} style", word, style,
        )
        for word in WORDS
    ]  # fmt: skip


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return Pictures(shown("noto", 1), shown("noto", 2), shown("twemoji", 3), shown("noto v1", 4))


@pytest.fixture(scope="module")
def pipeline(pictures: Pictures, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from diffusers import StableDiffusionPipeline

    folder = tmp_path_factory.mktemp("base") / "tiny-icons"
    torch.manual_seed(0)
    vae, text, unet = new_models(tokenizer := train_tokenizer([row.caption for row in pictures.train], 600), ICONS)
    save_pipeline(folder, vae, text, tokenizer, unet)
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 15e6
    assert load_pipeline(folder)[3].config.cross_attention_dim == ICONS.text
    made = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    made.set_progress_bar_config(disable=True)
    return made


def test_everything_is_measured_and_the_card_says_it(
    pictures: Pictures, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "STEPS", 1)
    monkeypatch.setattr(report, "DRAWS", 1)
    judge = train_judge(pictures.judge, epochs=1, seeds=[0])
    found = measure(pipeline, pictures, judge, pipeline)
    for name in ("real", "drawn", "drawn_by_tiny_sd", "drawn_of_training"):
        assert found[name]["pictures"] == len(WORDS) and 0.0 <= found[name]["whole"] <= 1.0
    assert 0.0 <= found["caption_test"] <= 1.0 and found["train"] == len(WORDS)
    found["real"] = {"whole": 0.875, "names": 0.8125, "pictures": 22}
    card = model_card(found | {"minutes": {"autoencoder": 20.4, "decoder": 9.6}, "threads": 2, "megabytes": 12.34})
    assert "12.3 MB" in card and "on 2 CPU threads: autoencoder 20, decoder 10." in card
    assert "| real pictures | 87.5% | 81.2% | 22 |" in card and "among 20 of held-out things" in card
    for icons in BASE:
        assert f"| {icons.name} | {icons.version} | {icons.author} | {icons.licence} |" in card


def test_the_grid_shows_what_was_drawn_beside_what_is_real(
    pictures: Pictures, pipeline: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "STEPS", 1)
    sample_grid(pipeline, pictures, tmp_path / "grid.png")
    grid = Image.open(tmp_path / "grid.png")
    assert grid.size == (6 * (4 * SIZE + 16) + 8, 4 * (2 * SIZE + 52) + 24)
