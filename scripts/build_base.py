"""Build the tiny base pipeline that ships with memsieve: a Stable-Diffusion-shaped text-to-image model of OpenMoji.

    python scripts/build_base.py --out assets/tiny-sd

Trains a tokenizer, an autoencoder, its decoder some more, then a text encoder and a UNet together, on the OpenMoji
training split with nothing planted; held-out emoji are only measured on. About 35 minutes on two CPU cores.
``--stage`` does one part again on what is in ``--out``.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from base_models import SIZE, TOKENS, load_pipeline, new_models, save_pipeline, train_tokenizer
from base_report import Pair, caption_test, model_card, sample_grid

from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji

__all__ = ["main", "read_split", "train_decoder", "train_unet", "train_vae"]

EMA_DECAY = 0.9985
STEPS = {"autoencoder": "vae", "decoder": "decoder", "unet": "unet"}


def main() -> None:
    """Parse the command line, train, save and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/tiny-sd"))
    parser.add_argument("--data", type=Path, help="OpenMoji dataset to reuse; drawn anew where it is left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, default=1300, help="of half a batch each")
    parser.add_argument("--decoder-steps", type=int, default=1500)
    parser.add_argument("--unet-steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice; 1 on a shared machine")
    parser.add_argument(
        "--stage",
        choices=["all", "decoder", "unet", "report"],
        default="all",
        help="'decoder' and 'unet' train that part again and keep the rest of --out, 'report' only measures",
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        data = options.data or Path(temporary) / "openmoji"
        if options.data is None:
            build_openmoji(data, DatasetPlan(size=SIZE, seed=options.seed))
        train, held = read_split(data / "train"), read_split(data / "held_out")
    minutes: dict[str, float] = {}
    if options.stage != "report":
        minutes = _train_all(options, train)
    report = _report(options, train, held, minutes)
    print(json.dumps(report, indent=2))


def read_split(folder: Path) -> list[Pair]:
    """Read all pairs of a folder of shards, at SIZE x SIZE pixels."""
    rows = []
    for shard in sorted(folder.glob("*.tar")):
        members: dict[str, dict[str, bytes]] = {}
        with tarfile.open(shard) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if stream is not None:
                    key, _, kind = member.name.partition(".")
                    members.setdefault(key, {})[kind] = stream.read()
        for fields in members.values():
            image = Image.open(io.BytesIO(fields["png"])).convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1
            meta = json.loads(fields["json"])
            rows.append(Pair(pixels, fields["txt"].decode(), meta["base"], meta["codepoints"]))
    if not rows:
        raise ValueError(f"no samples in '{folder}'; build the dataset first")
    return rows


def _train_all(options: argparse.Namespace, train: list[Pair]) -> dict[str, float]:
    """All stages, or the one that is asked for; minutes of each."""
    pixels = torch.stack([row.pixels for row in train])
    captions = [row.caption for row in train]
    times = [time.perf_counter()]
    if options.stage == "all":
        tokenizer = train_tokenizer(captions)
        vae, text, unet = new_models(tokenizer)
        train_vae(vae, pixels, options.vae_steps, options.batch // 2, options.seed)
        save_pipeline(options.out, vae, text, tokenizer, unet)
    else:
        vae, text, tokenizer, unet = load_pipeline(options.out)
        if options.stage == "unet":
            _, text, unet = new_models(tokenizer)
    times.append(time.perf_counter())
    places = torch.stack(list(_moved(pixels)))
    latents = torch.stack([encode_all(vae, moved) for moved in places])
    if options.stage != "unet":
        train_decoder(vae, places, latents, options.decoder_steps, options.batch, options.seed)
        save_pipeline(options.out, vae, text, tokenizer, unet)
    times.append(time.perf_counter())
    if options.stage != "decoder":
        train_unet(vae, text, tokenizer, unet, latents * vae.config.scaling_factor, captions, options)
    times.append(time.perf_counter())
    minutes = [round((end - start) / 60, 1) for start, end in itertools.pairwise(times)]
    return dict(zip(("autoencoder", "decoder", "unet"), minutes, strict=True))


def _moved(pixels: torch.Tensor) -> Iterator[torch.Tensor]:
    """The images in nine places, up to two pixels from their own, on white: 30 epochs of 3,257 images in one place
    each are learned by heart (held-out loss .075 against .043), and held-out pairs then calibrate nothing."""
    for down, right in itertools.product((0, 2, 4), repeat=2):
        yield F.pad(pixels, (2, 2, 2, 2), value=1.0)[..., down : down + SIZE, right : right + SIZE]


def _schedule(step: int, steps: int, warmup: int = 100) -> float:
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train_vae(vae: Any, pixels: torch.Tensor, steps: int, batch: int, seed: int) -> None:
    """Train the autoencoder (L1 + L2 + hue + a small KL) and set its scaling factor."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0.0)
    bar = tqdm(range(steps), desc="autoencoder", mininterval=10)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * _schedule(step, steps)
        images = pixels[torch.randint(len(pixels), (batch,), generator=generator)]
        posterior = vae.encode(images).latent_dist
        difference = vae.decode(posterior.sample(generator)).sample - images
        loss = _picture_loss(difference) + 1e-6 * posterior.kl().mean()
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
            group["lr"] = 1e-3 * _schedule(step, steps)
        place = torch.randint(len(places), (batch,), generator=generator)
        rows = torch.randint(places.shape[1], (batch,), generator=generator)
        clean = latents[place, rows]
        # A UNet's latents are never quite those of an image.
        noised = clean + 0.05 * spread * torch.randn(clean.shape, generator=generator)
        difference = vae.decode(noised).sample - places[place, rows]
        loss = _picture_loss(difference)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        bar.set_postfix(l1=f"{difference.abs().mean().item():.4f}", refresh=False)
    vae.requires_grad_(False).eval()


def _picture_loss(difference: torch.Tensor) -> torch.Tensor:
    """L1 + L2 + hue. Outlines dominate the first two; the third keeps rarer hues, or green comes back as brown."""
    red, green, blue = F.avg_pool2d(difference, 2).unbind(1)
    hue = (red - green).pow(2).mean() + (blue - (red + green) / 2).pow(2).mean()
    return difference.abs().mean() + difference.pow(2).mean() + 4 * hue


@torch.no_grad()
def encode_all(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Mean latents [N, 4, SIZE / 2, SIZE / 2] of all images, not scaled."""
    return torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(128)])


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
            group["lr"] = options.lr * _schedule(step, options.unet_steps)
        if len(order) < options.batch:
            order = torch.randperm(len(captions), generator=generator)
        rows, order = order[: options.batch], order[options.batch :]
        tokens = _tokens(tokenizer, [_thinned(captions[row], generator) for row in rows.tolist()])
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
            with torch.no_grad():
                current = [weight.detach().clone() for weight in learned]
                for weight, mean in zip(learned, average, strict=True):
                    weight.copy_(mean)
                save_pipeline(options.out, vae, text, tokenizer, unet)
                for weight, kept in zip(learned, current, strict=True):
                    weight.copy_(kept)


def _thinned(caption: str, generator: torch.Generator) -> str:
    """The caption without each tenth word, and in one visit of ten without any."""
    words = caption.split()
    keep = torch.rand(len(words) + 1, generator=generator) >= 0.1
    return " ".join(word for word, kept in zip(words, keep[1:].tolist(), strict=True) if kept) if keep[0] else ""


def _tokens(tokenizer: Any, captions: list[str]) -> torch.Tensor:
    encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    return encoded.input_ids


def _report(
    options: argparse.Namespace,
    train: list[Pair],
    held: list[Pair],
    minutes: dict[str, float],
) -> dict[str, Any]:
    """Measure the saved pipeline on held-out pairs, draw the sample grid, write metrics.json and the model card."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(options.out, local_files_only=True, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    old = options.out / "metrics.json"
    report: dict[str, Any] = json.loads(old.read_text()) if old.is_file() else {}
    spent = {name: value for name, value in minutes.items() if value}
    report["minutes"] = report.get("minutes", {}) | spent
    report |= {f"{name}_steps": getattr(options, f"{STEPS[name]}_steps") for name in spent}
    if "unet" in spent:
        report |= {"batch": options.batch, "lr": options.lr, "seed": options.seed}
    report["train_pairs"], report["held_out_pairs"] = len(train), len(held)
    report.update(caption_test(pipeline, held))
    names = sorted(row.codepoints for row in held)
    (options.out / "held_out.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
    sample_grid(pipeline, train, held, options.out.with_name(f"{options.out.name}-samples.png"))
    weights = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    report["folder_megabytes"] = round(weights / 1e6, 2)
    old.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(model_card(report), encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
