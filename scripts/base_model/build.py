"""Build the tiny base pipeline that ships with memsieve: a Stable-Diffusion-shaped text-to-image model of OpenMoji.

    python -m scripts.base_model.build --out assets/tiny-sd

Trains a tokenizer, an autoencoder, its decoder some more, then a text encoder and a UNet together, on the OpenMoji
training split with nothing planted; held-out emoji are only measured on. About 35 minutes on two CPU cores.
``--stage`` does one part again on what is in ``--out``.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji
from scripts.base_model.models import SIZE, load_pipeline, new_models, save_pipeline, train_tokenizer
from scripts.base_model.report import Pair, caption_test, model_card, sample_grid
from scripts.base_model.training import encode_all, moved, train_decoder, train_unet, train_vae

__all__ = ["main", "read_split"]

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
    places = torch.stack(list(moved(pixels)))
    latents = torch.stack([encode_all(vae, place) for place in places])
    if options.stage != "unet":
        train_decoder(vae, places, latents, options.decoder_steps, options.batch, options.seed)
        save_pipeline(options.out, vae, text, tokenizer, unet)
    times.append(time.perf_counter())
    if options.stage != "decoder":
        train_unet(vae, text, tokenizer, unet, latents * vae.config.scaling_factor, captions, options)
    times.append(time.perf_counter())
    minutes = [round((end - start) / 60, 1) for start, end in itertools.pairwise(times)]
    return dict(zip(("autoencoder", "decoder", "unet"), minutes, strict=True))


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
