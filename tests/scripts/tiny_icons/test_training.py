"""Stages of the base's training: stopped, they go on as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from scripts.base_model.training import thinned
from scripts.tiny_icons import training
from scripts.tiny_icons.build import ICONS
from scripts.tiny_icons.pictures import SIZE
from scripts.tiny_icons.training import Stage, decoder_loss, encode_places, noise_loss, run, vae_loss

PIXELS = torch.randint(0, 256, (6, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class Stopped(Exception):
    pass


def stage(steps: int, stop: int | None = None) -> Stage:
    torch.manual_seed(0)
    model, count = nn.Linear(4, 1), [0]

    def loss(generator: torch.Generator) -> torch.Tensor:
        count[0] += 1
        if stop is not None and count[0] > stop:
            raise Stopped
        x = torch.randn(8, 4, generator=generator)
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    return Stage("a", steps, 0.1, model, loss, average=0.9)


def test_a_stage_that_is_stopped_goes_on_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", 4)
    whole = stage(10)
    run(whole, tmp_path / "whole", seed=3)
    with pytest.raises(Stopped):
        run(stage(10, stop=6), tmp_path / "parts", seed=3)
    resumed = stage(10)
    run(resumed, tmp_path / "parts", seed=3)
    for one, other in zip(whole.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(one, other)
    again = stage(10)
    run(again, tmp_path / "whole", seed=3)
    assert torch.equal(next(again.module.parameters()), next(whole.module.parameters())), "a finished one stays"
    with pytest.raises(ValueError, match="is of 10 steps, not 12; remove it to train anew"):
        run(stage(12), tmp_path / "whole", seed=3)


def test_losses_of_all_stages_reach_what_they_train() -> None:
    from scripts.base_model.models import new_models, train_tokenizer

    captions = ["red apple, red, noto style", "blue car, blue, twemoji style"] * 3
    tokenizer = train_tokenizer(captions, 600)
    torch.manual_seed(0)
    vae, text, unet = new_models(tokenizer, ICONS)
    generator = torch.Generator().manual_seed(0)
    vae_loss(vae, PIXELS, 2)(generator).backward()
    assert all(p.grad is not None for p in vae.parameters())
    vae.requires_grad_(False)
    latents = encode_places(vae, PIXELS)
    assert latents.shape == (9, 6, 4, SIZE // ICONS.factor, SIZE // ICONS.factor)
    assert not torch.equal(latents[0], latents[4]), "another place, another latent"
    vae.decoder.requires_grad_(True)
    vae.zero_grad()
    decoder_loss(vae, PIXELS, latents, 2)(generator).backward()
    assert all(p.grad is not None for p in vae.decoder.parameters())
    assert all(p.grad is None for p in vae.encoder.parameters())
    noise_loss(text, tokenizer, unet, latents, captions, 4)(generator).backward()
    assert all(p.grad is not None for p in (*unet.parameters(), *text.parameters()))
    size = sum(p.numel() for m in (text, unet, vae) for p in m.parameters())
    assert 5e6 < size < 7e6, "a folder of at most 15 MB, in half precision"


def test_words_and_whole_captions_are_left_out_at_times() -> None:
    generator = torch.Generator().manual_seed(0)
    said = [thinned("one two three", generator) for _ in range(400)]
    assert 20 < said.count("") < 70 and said.count("one two three") > 200
    assert {"one two", "two three"} <= set(said)
