"""diffusers' train_text_to_image_lora.py pattern with memsieve in it; the lines that it adds end in ``# +``.

    accelerate launch docs/examples/filter_in_a_lora_loop.py --pretrained_model_name_or_path MODEL \
        --train_data_dir DATA --output_dir OUT

The network with its adapter switched off is the model before fine-tuning: what it makes of a pair is what the filter
compares with. A share of the pairs (--held_out) is never trained on and says how large a difference is ordinary. DATA
holds images and a metadata.jsonl of {"file_name": ..., "text": ...} lines.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import load_dataset
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import ImageOps
from transformers import CLIPTextModel, CLIPTokenizer

from memsieve import LoopFilter, content_key  # +


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pretrained_model_name_or_path", required=True)
    parser.add_argument("--train_data_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--train_batch_size", type=int, default=8)
    parser.add_argument("--max_train_steps", type=int, default=1000)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--held_out", type=float, default=0.1)
    parser.add_argument("--target_modules", nargs="+", default=["to_k", "to_q", "to_v", "to_out.0"])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    accelerator = Accelerator()
    set_seed(args.seed)
    folder = args.pretrained_model_name_or_path
    noise_scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").to(accelerator.device)
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").to(accelerator.device)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").to(accelerator.device)
    for frozen in (vae, text_encoder, unet):
        frozen.requires_grad_(False)
    options = {"r": args.rank, "lora_alpha": args.rank, "init_lora_weights": "gaussian"}
    unet.add_adapter(LoraConfig(**options, target_modules=args.target_modules))
    cast_training_params(unet, dtype=torch.float32)
    lora_layers = [parameter for parameter in unet.parameters() if parameter.requires_grad]

    def preprocess(examples: dict[str, Any]) -> dict[str, Any]:
        side = (args.resolution, args.resolution)
        images = [np.asarray(ImageOps.fit(image.convert("RGB"), side)) for image in examples["image"]]
        examples["pixel_values"] = [torch.from_numpy(image / 127.5 - 1).permute(2, 0, 1).float() for image in images]
        padding: dict[str, Any] = {"padding": "max_length", "max_length": tokenizer.model_max_length}
        tokens = tokenizer(examples["text"], truncation=True, return_tensors="pt", **padding)
        examples["input_ids"] = list(tokens.input_ids)
        examples["key"] = [content_key(image) for image in examples["image"]]  # + who it is: what the picture shows
        return examples

    def collate_fn(examples: list[dict[str, Any]]) -> dict[str, Any]:
        stacked = {name: torch.stack([example[name] for example in examples]) for name in ("pixel_values", "input_ids")}
        return {**stacked, "key": [example["key"] for example in examples]}  # +

    dataset = load_dataset("imagefolder", data_dir=args.train_data_dir, split="train").with_transform(preprocess)
    train_dataloader: Any = torch.utils.data.DataLoader(
        dataset, shuffle=True, collate_fn=collate_fn, batch_size=args.train_batch_size, drop_last=True
    )
    optimizer: Any = torch.optim.AdamW(lora_layers, lr=args.learning_rate)
    unet, optimizer, train_dataloader = accelerator.prepare(unet, optimizer, train_dataloader)
    # Checkpoints of the accelerator take it along.
    sieve = LoopFilter(unet, noise_scheduler, accelerator, held_out=args.held_out, false_drop_rate=0.05)  # +

    global_step, train_loss = 0, 0.0
    while global_step < args.max_train_steps:
        for batch in train_dataloader:
            with torch.no_grad():
                latents = vae.encode(batch["pixel_values"]).latent_dist.sample() * vae.config.scaling_factor
                encoder_hidden_states = text_encoder(batch["input_ids"])[0]
            noise = torch.randn_like(latents)
            steps = noise_scheduler.config.num_train_timesteps
            timesteps = torch.randint(0, steps, (len(latents),), device=latents.device)
            noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
            model_pred = unet(noisy_latents, timesteps, encoder_hidden_states).sample
            loss = sieve.loss(model_pred, noise, timesteps, batch["key"])  # + instead of F.mse_loss
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(lora_layers, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            train_loss, global_step = float(loss.detach()), global_step + 1
            if global_step >= args.max_train_steps:
                break

    accelerator.wait_for_everyone()
    print(
        f"rank {accelerator.process_index}: loss {train_loss:.4f}, {sieve.dropped} of {sieve.seen} visits dropped, "
        f"condemned: {' '.join(sieve.condemned) or 'nobody'}"
    )
    if accelerator.is_main_process:
        accelerator.save_state(f"{args.output_dir}/state")  # all that the filter knows is on every rank
        layers = get_peft_model_state_dict(accelerator.unwrap_model(unet))
        StableDiffusionPipeline.save_lora_weights(args.output_dir, unet_lora_layers=layers)
    accelerator.end_training()


if __name__ == "__main__":
    main()
