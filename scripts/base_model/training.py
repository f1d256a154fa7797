"""How the parts of the tiny base pipeline are trained: the autoencoder, its decoder alone, text encoder and UNet."""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from tqdm import tqdm

from scripts.base_model.models import SIZE, TOKENS, save_pipeline

__all__ = [
    "encode_all",
    "learning_share",
    "moved",
    "picture_loss",
    "thinned",
    "train_decoder",
    "train_unet",
    "train_vae",
]

EMA_DECAY = 0.9985


def train_vae(vae: Any, pixels: torch.Tensor, steps: int, batch: int, seed: int) -> None:
    """Train the autoencoder (L1 + L2 + hue + a small KL) and set its scaling factor."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0.0)
    bar = tqdm(range(steps), desc="autoencoder", mininterval=10)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * learning_share(step, steps)
        images = pixels[torch.randint(len(pixels), (batch,), generator=generator)]
        posterior = vae.encode(images).latent_dist
        difference = vae.decode(posterior.sample(generator)).sample - images
        loss = picture_loss(difference) + 1e-6 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        bar.set_postfix(l1=f"{difference.abs().mean().item():.4f}", refresh=False)
    vae.requires_grad_(False).eval()
    vae.register_to_config(scaling_factor=float(1 / encode_all(vae, pixels).std()))


def train_decoder(vae: Any, places: torch.Tensor, latents: torch.Tensor, steps: int, batch: int, seed: int) -> None:
    """Train the decoder alone: it costs half, and latents that a UNet has learned stay as they are.

    Args:
        places: images [places, N, 3, SIZE, SIZE].
        latents: their latents [places, N, 4, SIZE / 2, SIZE / 2], not scaled.
    """
    generator = torch.Generator().manual_seed(seed + 2)
    learned = [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()]
    for weight in learned:
        weight.requires_grad_(True)
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=0.0)
    spread = latents.std()
    bar = tqdm(range(steps), desc="decoder", mininterval=10)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * learning_share(step, steps)
        place = torch.randint(len(places), (batch,), generator=generator)
        rows = torch.randint(places.shape[1], (batch,), generator=generator)
        clean = latents[place, rows]
        # A UNet's latents are never quite those of an image.
        noised = clean + 0.05 * spread * torch.randn(clean.shape, generator=generator)
        difference = vae.decode(noised).sample - places[place, rows]
        loss = picture_loss(difference)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        bar.set_postfix(l1=f"{difference.abs().mean().item():.4f}", refresh=False)
    vae.requires_grad_(False).eval()


def train_unet(
    vae: Any, text: Any, tokenizer: Any, unet: Any, latents: torch.Tensor, captions: list[str],
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Train text encoder and UNet together to predict the noise; saves averaged weights to ``options.out``.

    ``latents`` are [places, N, 4, SIZE / 2, SIZE / 2]: each visit takes one place of its image.
    """
    from diffusers import DDPMScheduler

    generator = torch.Generator().manual_seed(options.seed + 1)
    noiser = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    # The weights are held once more: sampling and saving use their average over the last steps.
    learned = [*unet.parameters(), *text.parameters()]
    average = [weight.detach().clone() for weight in learned]
    optimizer = torch.optim.AdamW(learned, lr=options.lr, weight_decay=0.01)
    unet.train()
    text.train()
    bar = tqdm(range(options.unet_steps), desc="UNet and text encoder", mininterval=10)
    smooth = 1.0
    order = torch.empty(0, dtype=torch.long)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = options.lr * learning_share(step, options.unet_steps)
        if len(order) < options.batch:
            order = torch.randperm(len(captions), generator=generator)
        rows, order = order[: options.batch], order[options.batch :]
        tokens = _tokens(tokenizer, [thinned(captions[row], generator) for row in rows.tolist()])
        clean = latents[torch.randint(len(latents), (len(rows),), generator=generator), rows]
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(1000, (len(rows),), generator=generator)
        noised = noiser.add_noise(clean, noise, times)
        predicted = unet(noised, times, encoder_hidden_states=text(tokens).last_hidden_state).sample
        loss = (predicted - noise).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, [w.detach() for w in learned], 1 - min(EMA_DECAY, (1 + step) / (10 + step)))
        smooth += 0.01 * (loss.item() - smooth)
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if (step + 1) % options.save_every == 0 or step + 1 == options.unet_steps:
            with _weights_at(learned, average):
                save_pipeline(options.out, vae, text, tokenizer, unet)


@contextmanager
def _weights_at(learned: list[torch.nn.Parameter], values: list[torch.Tensor]) -> Iterator[None]:
    """The weights are ``values`` within, and afterwards what they were."""
    current = [weight.detach().clone() for weight in learned]
    with torch.no_grad():
        for weight, value in zip(learned, values, strict=True):
            weight.copy_(value)
        try:
            yield
        finally:
            for weight, kept in zip(learned, current, strict=True):
                weight.copy_(kept)


def moved(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """The images in nine places, up to two pixels from their own, on white: 30 epochs of 3,257 images in one place
    each are learned by heart (held-out loss .075 against .043), and held-out pairs then calibrate nothing."""
    for down, right in itertools.product((0, 2, 4), repeat=2):
        yield F.pad(pixels, (2, 2, 2, 2), value=1.0)[..., down : down + SIZE, right : right + SIZE]


@torch.no_grad()
def encode_all(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Mean latents [N, 4, SIZE / 2, SIZE / 2] of all images, not scaled."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(128)])


def learning_share(step: int, steps: int, warmup: int = 100) -> float:
    """Of the highest learning rate at a step: a warm-up, then a cosine down to a fiftieth."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def picture_loss(difference: torch.Tensor) -> torch.Tensor:
    """L1 + L2 + hue. Outlines dominate the first two; the third keeps rarer hues, or green comes back as brown."""
    red, green, blue = F.avg_pool2d(difference, 2).unbind(1)
    hue = (red - green).pow(2).mean() + (blue - (red + green) / 2).pow(2).mean()
    return difference.abs().mean() + difference.pow(2).mean() + 4 * hue


def thinned(caption: str, generator: torch.Generator) -> str:
    """The caption without each tenth word, and in one visit of ten without any."""
    words = caption.split()
    keep = torch.rand(len(words) + 1, generator=generator) >= 0.1
    return " ".join(word for word, kept in zip(words, keep[1:].tolist(), strict=True) if kept) if keep[0] else ""


def _tokens(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    return encoded.input_ids
