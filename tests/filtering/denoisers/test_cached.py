"""A denoiser whose encoders are stood in for by a cache: what it lacks is encoded, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from memsieve.filtering.denoisers.cache import CacheFolder, caption_key, image_key
from memsieve.filtering.denoisers.cached import CachedDenoiser, tensors_of
from memsieve.filtering.denoisers.conditioning import Conditioning


class Encoders:
    """Encodes an image as its mean, a caption as its length; counts what it was asked."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.images, self.captions = 0, 0

    def to(self, device: torch.device) -> None:
        self.device = device

    def posterior(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.images += len(pixels)
        mean = pixels.mean((1, 2, 3))[:, None]
        return mean, torch.ones_like(mean)

    def sample_latents(self, posterior: tuple[torch.Tensor, torch.Tensor], noise: torch.Tensor) -> torch.Tensor:
        return posterior[0] + posterior[1] * noise

    def conditioning(self, captions: list[str]) -> Conditioning:
        self.captions += len(captions)
        return Conditioning(torch.tensor([float(len(caption)) for caption in captions])[:, None, None])

    def unconditional(self, count: int) -> Conditioning:
        return Conditioning(torch.full((1, 1, 1), -1.0)).expand(count)


def test_only_what_the_cache_lacks_is_encoded_and_rows_keep_their_places(tmp_path: Path) -> None:
    encoders, cache = Encoders(), CacheFolder(tmp_path, {})
    pixels = torch.stack([torch.full((3, 2, 2), value) for value in (0.1, 0.2, 0.3)])
    cache.add("image", [image_key(pixels[1])], ["b"], {"mean": torch.tensor([[7.0]]), "std": torch.zeros(1, 1)})
    denoiser = CachedDenoiser(encoders, cache)
    latents = denoiser.latents(pixels, torch.ones(3, 1))
    assert torch.allclose(latents, torch.tensor([[1.1], [7.0], [1.3]]))
    assert (encoders.images, denoiser.misses) == (2, 2)
    denoiser.posterior(pixels[1:2])
    assert (encoders.images, denoiser.misses) == (2, 2)


def test_an_empty_caption_is_the_unconditional_one(tmp_path: Path) -> None:
    encoders, cache = Encoders(), CacheFolder(tmp_path, {})
    cache.add("caption", [caption_key("cat")], ["a"], {"encoder_hidden_states": torch.full((1, 1, 1), 9.0)})
    denoiser: Any = CachedDenoiser(encoders, cache)
    found = denoiser.conditioning(["", "cat", "horse"]).encoder_hidden_states.flatten().tolist()
    assert found == [-1.0, 9.0, 5.0] and encoders.captions == 1
    assert denoiser.unconditional(2).encoder_hidden_states.flatten().tolist() == [-1.0, -1.0]
    assert denoiser.images == 0, "everything else is the denoiser's own"


def test_the_tensors_that_there_are() -> None:
    states, mask = torch.zeros(2, 3, 4), torch.ones(2, 3)
    assert tensors_of(Conditioning(states)).keys() == {"encoder_hidden_states"}
    assert tensors_of(Conditioning(states, attention_mask=mask)).keys() == {"encoder_hidden_states", "attention_mask"}
