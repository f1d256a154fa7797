"""A denoiser whose encoders are stood in for by a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from memsieve.filtering.denoisers.base import Conditioning
from memsieve.filtering.denoisers.cache import CacheFolder, caption_key, image_key

__all__ = ["CachedDenoiser"]

_FIELDS = ("encoder_hidden_states", "pooled", "attention_mask")


class CachedDenoiser:
    """``denoiser`` with images and captions from ``cache``; everything else is the denoiser's own.

    What the cache lacks is encoded as it comes, and counted in ``misses``. The encoders wait in host memory, and come
    to the device where something must be encoded or drawn.
    """

    def __init__(self, denoiser: Any, cache: CacheFolder) -> None:
        self.denoiser, self.cache = denoiser, cache
        self.misses = 0
        self._away = False
        self._unconditional: Conditioning = denoiser.unconditional(1)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    # -- where the encoders are ------------------------------------------------------------------------------------

    def send_away(self) -> None:
        """Encoders to host memory; the device's memory is the network's."""
        if not self._away and self.denoiser.device.type != "cpu":
            device = self.denoiser.device
            self.denoiser.to(torch.device("cpu"))
            self.denoiser.device = device  # where tensors go has not changed
        self._away = True

    def _fetch(self) -> None:
        if self._away:
            self.denoiser.to(self.denoiser.device)
            self._away = False

    # -- what the cache stands in for ------------------------------------------------------------------------------

    def posterior(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As the denoiser's, each [B, C, h, w]."""

        def encode(missing: list[int]) -> dict[str, torch.Tensor]:
            mean, std = self.denoiser.posterior(pixels[missing])
            return {"mean": mean, "std": std}

        found = self._gather([self.cache.get("image", image_key(image)) for image in pixels], encode)
        return found["mean"], found["std"]

    def latents(self, pixels: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w], float32, the posterior sampled with ``noise``."""
        latents: torch.Tensor = self.denoiser.sample_latents(self.posterior(pixels), noise)
        return latents

    def conditioning(self, captions: list[str]) -> Conditioning:
        """The encoded ``captions``; an empty caption is the family's own unconditional one."""

        def encode(missing: list[int]) -> dict[str, torch.Tensor]:
            return tensors_of(self.denoiser.conditioning([captions[i] for i in missing]))

        empty = {name: value[0] for name, value in tensors_of(self._unconditional).items()}
        entries = [self.cache.get("caption", caption_key(text)) if text else empty for text in captions]
        return Conditioning(**self._gather(entries, encode))

    def unconditional(self, count: int) -> Conditioning:
        """The family's own unconditional conditioning, ``count`` times."""
        return self._unconditional.expand(count)

    def pipeline(self, model: torch.nn.Module | None = None) -> Any:
        """The family's pipeline, its encoders on the device until the next batch is read from the cache."""
        self._fetch()
        return self.denoiser.pipeline(model)

    def _gather(
        self,
        entries: Sequence[dict[str, torch.Tensor] | None],
        encode: Callable[[list[int]], dict[str, torch.Tensor]],
    ) -> dict[str, torch.Tensor]:
        """The entries as tensors [B, ...] on the device, those that are None encoded now, together."""
        missing = [i for i, entry in enumerate(entries) if entry is None]
        rows = dict(enumerate(entries))
        if missing:
            self.misses += len(missing)
            self._fetch()
            encoded = encode(missing)
            rows |= {i: {name: value[place] for name, value in encoded.items()} for place, i in enumerate(missing)}
        else:
            self.send_away()
        found = [entry for entry in rows.values() if entry is not None]
        device = self.denoiser.device
        return {name: torch.stack([entry[name].to(device) for entry in found]) for name in found[0]}


def tensors_of(conditioning: Conditioning) -> dict[str, torch.Tensor]:
    """The tensors that there are, by name."""
    named = {name: getattr(conditioning, name) for name in _FIELDS}
    return {name: value for name, value in named.items() if value is not None}
