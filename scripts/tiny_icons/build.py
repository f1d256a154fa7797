"""Build the base that the benchmark fine-tunes: a tiny Stable Diffusion pipeline of six icon sets, without OpenMoji.

    python -m scripts.tiny_icons.build --out assets/tiny-icons

Fetches the sets by npm, draws them, and trains a tokenizer, an autoencoder, its decoder some more, then text encoder
and UNet together; then a judge says what it can draw. About four hours on two CPU cores. Stopped, it goes on by the
same command.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memsieve.filtering.files import write_json
from scripts.base_model.models import Sizes, new_models, save_pipeline, train_tokenizer
from scripts.tiny_icons.judge import train_judge
from scripts.tiny_icons.pictures import SIZE, Pictures, load_pictures
from scripts.tiny_icons.report import measure, model_card, sample_grid
from scripts.tiny_icons.training import Stage, decoder_loss, encode_places, noise_loss, run, vae_loss

__all__ = ["ICONS", "main", "train"]

ICONS = Sizes(SIZE, (32, 64, 64), 128, (64, 128))
"""A fine-tune on two CPU cores takes minutes, and the folder has at most 15 MB; latents are [4, 16, 16]."""
VOCABULARY = 2500
EMA_DECAY = 0.999


def main() -> None:
    """Parse the command line, train, save and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/tiny-icons"))
    parser.add_argument("--work", type=Path, default=Path(".cache/tiny-icons"), help="packages, drawings, progress")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, default=2400)
    parser.add_argument("--decoder-steps", type=int, default=2000)
    parser.add_argument("--unet-steps", type=int, default=6500)
    parser.add_argument("--longer-steps", type=int, default=7500, help="a second cosine: the loss was still falling")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    pictures = load_pictures(options.work / "packages", options.work / "pictures.pt")
    minutes = train(options, pictures)
    print(json.dumps(_report(options, pictures, minutes), indent=2))


def train(options: argparse.Namespace, pictures: Pictures) -> dict[str, float]:
    """All stages, each from where it stands; minutes of each."""
    pixels = torch.stack([row.pixels for row in pictures.train])
    captions = [row.caption for row in pictures.train]
    tokenizer = _tokenizer(options.work / "tokenizer", captions)
    vae, text, unet = new_models(tokenizer, ICONS)
    first = Stage("autoencoder", options.vae_steps, 2e-3, vae, vae_loss(vae, pixels, 16))
    run(first, options.work, options.seed)
    vae.requires_grad_(False).eval()
    latents = encode_places(vae, pixels)
    vae.register_to_config(scaling_factor=float(1 / latents.float().std()))
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    second = Stage("decoder", options.decoder_steps, 1e-3, vae, decoder_loss(vae, pixels, latents, 16))
    run(second, options.work, options.seed + 1)
    vae.requires_grad_(False).eval()
    latents *= vae.config.scaling_factor
    unet.to(memory_format=torch.channels_last)  # a tenth faster on a CPU
    both = nn.ModuleList([text, unet])
    loss = noise_loss(text, tokenizer, unet, latents, captions, 32)
    third = Stage("text encoder and UNet", options.unet_steps, 1e-3, both, loss, EMA_DECAY)
    run(third, options.work, options.seed + 2)
    fourth = Stage("text encoder and UNet, longer", options.longer_steps, 1e-3, both, loss, EMA_DECAY)
    run(fourth, options.work, options.seed + 3)
    save_pipeline(options.out, vae, text, tokenizer, unet)
    return {stage.name: round(stage.minutes, 1) for stage in (first, second, third, fourth)}


def _tokenizer(folder: Path, captions: list[str]) -> Any:
    """The one of ``folder``, where it is trained once: its numbers differ from one training to the next."""
    from transformers import CLIPTokenizer

    if not folder.is_dir():
        unfinished = folder.with_name(f".{folder.name}.new")
        train_tokenizer(captions, VOCABULARY).save_pretrained(unfinished)
        unfinished.replace(folder)
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def _report(options: argparse.Namespace, pictures: Pictures, minutes: dict[str, float]) -> dict[str, Any]:
    from diffusers import StableDiffusionPipeline

    def opened(folder: Path) -> Any:
        pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    pipeline = opened(options.out)
    report = measure(pipeline, pictures, train_judge(pictures.judge), opened(Path("assets/tiny-sd")), options.seed)
    sample_grid(pipeline, pictures, options.out.with_name(f"{options.out.name}-samples.png"))
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    report |= {"minutes": minutes, "threads": torch.get_num_threads(), "megabytes": size / 1e6}
    write_json(options.out / "metrics.json", report)
    (options.out / "README.md").write_text(model_card(report), encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
