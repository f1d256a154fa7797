"""diffusers' train_text_to_image.py pattern with memsieve's filter in it; the lines that it adds end in ``# +``.

    accelerate launch docs/examples/filter_in_your_loop.py --pretrained_model_name_or_path MODEL \
        --train_data_dir DATA --output_dir OUT

DATA is an image folder with a metadata.jsonl of {"file_name": ..., "text": ...} lines. Names are those of diffusers'
script, of which this keeps what matters to the loop. For models that predict the noise (SD 1.x).
"""

from __future__ import annotations

import argparse
import hashlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import load_dataset
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from PIL import ImageOps
from transformers import CLIPTextModel, CLIPTokenizer

from memsieve import MemorizationFilter, Predictions, Visit, finite_rows  # +


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pretrained_model_name_or_path", required=True)
    parser.add_argument("--train_data_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--train_batch_size", type=int, default=8)
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--max_train_steps", type=int, default=1000)
    parser.add_argument("--learning_rate", type=float, default=1e-5)
    parser.add_argument("--lr_scheduler", default="constant")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    accelerator = Accelerator(gradient_accumulation_steps=args.gradient_accumulation_steps, project_dir=args.output_dir)
    set_seed(args.seed)
    folder = args.pretrained_model_name_or_path
    noise_scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").to(accelerator.device)
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").to(accelerator.device)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
    vae.requires_grad_(False)
    text_encoder.requires_grad_(False)

    def tokenize_captions(captions: list[str]) -> torch.Tensor:
        options: dict[str, Any] = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return tokenizer(captions, max_length=tokenizer.model_max_length, **options).input_ids

    def preprocess_train(examples: dict[str, Any]) -> dict[str, Any]:
        side = (args.resolution, args.resolution)
        images = [np.asarray(ImageOps.fit(image.convert("RGB"), side)) for image in examples["image"]]
        examples["pixel_values"] = [torch.from_numpy(image / 127.5 - 1).permute(2, 0, 1).float() for image in images]
        examples["input_ids"] = list(tokenize_captions(examples["text"]))
        examples["key"] = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]  # + who it is: its content
        return examples

    def collate_fn(examples: list[dict[str, Any]]) -> dict[str, Any]:
        stacked = {name: torch.stack([example[name] for example in examples]) for name in ("pixel_values", "input_ids")}
        return {**stacked, "key": [example["key"] for example in examples]}

    train_dataset = load_dataset("imagefolder", data_dir=args.train_data_dir, split="train")
    train_dataloader: Any = torch.utils.data.DataLoader(
        train_dataset.with_transform(preprocess_train),
        shuffle=True,
        collate_fn=collate_fn,
        batch_size=args.train_batch_size,
        drop_last=True,
    )
    optimizer: Any = torch.optim.AdamW(unet.parameters(), lr=args.learning_rate)
    lr_scheduler = get_scheduler(args.lr_scheduler, optimizer, num_training_steps=args.max_train_steps)
    unet, optimizer, train_dataloader, lr_scheduler = accelerator.prepare(
        unet, optimizer, train_dataloader, lr_scheduler
    )
    empty_prompt = text_encoder(tokenize_captions([""]).to(accelerator.device))[0]
    sieve = MemorizationFilter(signals=["magnitude"], rule="z_score", threshold=4.0)  # +
    accelerator.register_for_checkpointing(sieve)  # + save_state and load_state take the filter along

    global_step, dropped, train_loss = 0, 0, 0.0
    while global_step < args.max_train_steps:
        for batch in train_dataloader:
            with accelerator.accumulate(unet):
                latents = vae.encode(batch["pixel_values"]).latent_dist.sample() * vae.config.scaling_factor
                encoder_hidden_states = text_encoder(batch["input_ids"])[0]
                # A NaN that goes through the network is in every gradient, whatever its weight.
                valid, (latents, encoder_hidden_states) = finite_rows(latents, encoder_hidden_states)  # +
                noise = torch.randn_like(latents)
                steps = noise_scheduler.config.num_train_timesteps
                timesteps = torch.randint(0, steps, (len(latents),), device=latents.device)
                noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
                model_pred = unet(noisy_latents, timesteps, encoder_hidden_states).sample

                empty = empty_prompt.expand_as(encoder_hidden_states)
                with torch.no_grad():  # + past DDP, so that no rank waits for another here
                    uncond = accelerator.unwrap_model(unet)(noisy_latents, timesteps, empty).sample  # +
                measured = sieve.measure(Predictions(noise, model_pred, uncond), timesteps)  # +
                decision = sieve.decide([Visit(key) for key in batch["key"]], measured, valid)  # +
                loss = decision.reduce(
                    F.mse_loss(model_pred.float(), noise.float(), reduction="none")
                )  # + not the mean

                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(unet.parameters(), 1.0)
                    sieve.end_window()  # +
                optimizer.step()
                lr_scheduler.step()
                optimizer.zero_grad()
            dropped += sum(verdict.weight == 0 for verdict in decision.verdicts)
            train_loss = float(loss.detach())
            if accelerator.sync_gradients:
                global_step += 1
            if global_step >= args.max_train_steps:
                break

    accelerator.wait_for_everyone()
    accelerator.save_state(f"{args.output_dir}/state")  # on every rank: evidence is shared out over them
    print(f"rank {accelerator.process_index}: loss {train_loss:.4f}, {dropped} visits dropped, {sieve.n_groups} images")
    if accelerator.is_main_process:
        network = accelerator.unwrap_model(unet)
        StableDiffusionPipeline.from_pretrained(folder, unet=network).save_pretrained(args.output_dir)
    accelerator.end_training()


if __name__ == "__main__":
    main()
