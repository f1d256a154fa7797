"""diffusers' train_text_to_image_lora.py pattern with memsieve's filter in it; the lines that it adds end in ``# +``.

    accelerate launch docs/examples/filter_in_a_lora_loop.py --pretrained_model_name_or_path MODEL \
        --train_data_dir DATA --held_out_data_dir HELD_OUT --output_dir OUT

The network with its adapter switched off is the model before fine-tuning: what it makes of a pair is what the filter
compares with, and pairs of HELD_OUT, never trained on, say how large a difference is ordinary. Both folders hold images
and a metadata.jsonl of {"file_name": ..., "text": ...} lines. For models that predict the noise (SD 1.x).
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import load_dataset
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import ImageOps
from transformers import CLIPTextModel, CLIPTokenizer

from memsieve import MemorizationFilter, Predictions, Visit, adapter_off, finite_rows  # +


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pretrained_model_name_or_path", required=True)
    parser.add_argument("--train_data_dir", required=True)
    parser.add_argument("--held_out_data_dir", required=True)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--train_batch_size", type=int, default=8)
    parser.add_argument("--max_train_steps", type=int, default=1000)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--rank", type=int, default=16)
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
        examples["key"] = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]  # + who it is: its content
        return examples

    def collate_fn(examples: list[dict[str, Any]]) -> dict[str, Any]:
        stacked = {name: torch.stack([example[name] for example in examples]) for name in ("pixel_values", "input_ids")}
        return {**stacked, "key": [example["key"] for example in examples]}

    def dataloader(data_dir: str, shuffle: bool) -> Any:
        dataset = load_dataset("imagefolder", data_dir=data_dir, split="train").with_transform(preprocess)
        options: dict[str, Any] = {"batch_size": args.train_batch_size, "drop_last": True}
        return torch.utils.data.DataLoader(dataset, shuffle=shuffle, collate_fn=collate_fn, **options)

    train_dataloader = dataloader(args.train_data_dir, shuffle=True)
    optimizer: Any = torch.optim.AdamW(lora_layers, lr=args.learning_rate)
    unet, optimizer, train_dataloader = accelerator.prepare(unet, optimizer, train_dataloader)
    bare = accelerator.unwrap_model(unet)
    # Not prepared: every rank calibrates with the same pairs, and the same noise.
    held_out = itertools.cycle(dataloader(args.held_out_data_dir, shuffle=False))  # +
    sieve = MemorizationFilter(record=[], false_drop_rate=0.05, held_out_per_window=args.train_batch_size)  # +
    accelerator.register_for_checkpointing(sieve)  # + save_state and load_state take the filter along

    def denoise(network: Any, batch: dict[str, Any], generator: torch.Generator) -> Any:
        pixel_values, input_ids = (batch[name].to(accelerator.device) for name in ("pixel_values", "input_ids"))
        latents = vae.encode(pixel_values).latent_dist.mode() * vae.config.scaling_factor
        # A NaN that goes through the network is in every gradient, whatever its weight.
        valid, (latents, encoder_hidden_states) = finite_rows(latents, text_encoder(input_ids)[0])  # +
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
        timesteps = timesteps.to(latents.device)
        noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
        model_pred = network(noisy_latents, timesteps, encoder_hidden_states).sample
        with torch.no_grad(), adapter_off(bare):  # +
            reference = bare(noisy_latents, timesteps, encoder_hidden_states).sample  # +
        measured = sieve.measure(Predictions(noise, model_pred, ref_cond=reference), timesteps, valid)  # +
        return model_pred, noise, measured, valid

    ours = torch.Generator().manual_seed(args.seed + 1 + accelerator.process_index)
    everyones = torch.Generator().manual_seed(args.seed)
    global_step, dropped, train_loss = 0, 0, 0.0
    while global_step < args.max_train_steps:
        for batch in train_dataloader:
            model_pred, noise, measured, valid = denoise(unet, batch, ours)
            decision = sieve.decide([Visit(key) for key in batch["key"]], measured, valid)  # +
            loss = decision.reduce(F.mse_loss(model_pred.float(), noise.float(), reduction="none"))  # + not the mean
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(lora_layers, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            with torch.no_grad():  # +
                sieve.calibrate((pairs := next(held_out))["key"], denoise(bare, pairs, everyones)[2])  # +
            sieve.end_window()  # +
            dropped += sum(verdict.weight == 0 for verdict in decision.verdicts)
            train_loss, global_step = float(loss.detach()), global_step + 1
            if global_step >= args.max_train_steps:
                break

    accelerator.wait_for_everyone()
    accelerator.save_state(f"{args.output_dir}/state")  # on every rank: evidence is shared out over them
    print(
        f"rank {accelerator.process_index}: loss {train_loss:.4f}, {dropped} visits dropped, condemned: "
        f"{' '.join(sieve.condemned) or 'nobody'}"
    )
    if accelerator.is_main_process:
        StableDiffusionPipeline.save_lora_weights(args.output_dir, unet_lora_layers=get_peft_model_state_dict(bare))
    accelerator.end_training()


if __name__ == "__main__":
    main()
