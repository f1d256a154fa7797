"""The step of diffusers' DreamBooth LoRA examples for the recent families, from latents, noise and noise levels."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import Flux2Pipeline, QwenImagePipeline

__all__ = ["EXAMPLES", "example_latents"]

Tensor = torch.Tensor


def z_image(pipe: Any, captions: list[str], noisy: Tensor, timesteps: Tensor) -> Tensor:
    """examples/dreambooth/train_dreambooth_lora_z_image.py"""
    prompt_embeds, _ = pipe.encode_prompt(list(captions), "cpu", do_classifier_free_guidance=False)
    latents = list(noisy.unsqueeze(2).unbind(dim=0))
    predicted = pipe.transformer(latents, (1000 - timesteps) / 1000, prompt_embeds, return_dict=False)[0]
    return -torch.stack(predicted, dim=0).squeeze(2)


def qwen_image(pipe: Any, captions: list[str], noisy: Tensor, timesteps: Tensor) -> Tensor:
    """examples/dreambooth/train_dreambooth_lora_qwen_image.py"""
    prompt_embeds, prompt_embeds_mask = pipe.encode_prompt(captions, "cpu", max_sequence_length=512)
    count, channels, height, width = noisy.shape
    predicted = pipe.transformer(
        hidden_states=QwenImagePipeline._pack_latents(noisy.unsqueeze(1), count, channels, height, width),
        encoder_hidden_states=prompt_embeds, encoder_hidden_states_mask=prompt_embeds_mask, timestep=timesteps / 1000,
        img_shapes=[(1, height // 2, width // 2)] * count, return_dict=False,
    )[0]  # fmt: skip
    factor = pipe.vae_scale_factor
    return QwenImagePipeline._unpack_latents(predicted, height * factor, width * factor, factor).squeeze(2)  # type: ignore[no-any-return]


def flux_2(pipe: Any, captions: list[str], noisy: Tensor, timesteps: Tensor) -> Tensor:
    """examples/dreambooth/train_dreambooth_lora_flux2.py and ..._flux2_klein.py, with a guidance scale of 1"""
    prompt_embeds, text_ids = pipe.encode_prompt(captions, "cpu")
    image_ids = Flux2Pipeline._prepare_latent_ids(noisy)
    guidance = torch.full([1], 1.0).expand(len(noisy)) if pipe.transformer.config.guidance_embeds else None
    predicted = pipe.transformer(
        hidden_states=Flux2Pipeline._pack_latents(noisy), timestep=timesteps / 1000, guidance=guidance,
        encoder_hidden_states=prompt_embeds, txt_ids=text_ids, img_ids=image_ids, return_dict=False,
    )[0]  # fmt: skip
    return Flux2Pipeline._unpack_latents_with_ids(predicted, image_ids)  # type: ignore[return-value]


def sana(pipe: Any, captions: list[str], noisy: Tensor, timesteps: Tensor) -> Tensor:
    """examples/dreambooth/train_dreambooth_lora_sana.py, with the pipeline's own instruction"""
    import inspect

    instruction = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
    prompt_embeds, prompt_attention_mask, _, _ = pipe.encode_prompt(
        captions, do_classifier_free_guidance=False, device="cpu", complex_human_instruction=instruction
    )
    predicted: Tensor = pipe.transformer(
        hidden_states=noisy, encoder_hidden_states=prompt_embeds, encoder_attention_mask=prompt_attention_mask,
        timestep=timesteps, return_dict=False,
    )[0]  # fmt: skip
    return predicted


def lumina_2(pipe: Any, captions: list[str], noisy: Tensor, timesteps: Tensor) -> Tensor:
    """examples/dreambooth/train_dreambooth_lora_lumina2.py, which calls 1 - s what is s here, and v its negative."""
    prompt_embeds, prompt_attention_mask, _, _ = pipe.encode_prompt(
        captions, do_classifier_free_guidance=False, device="cpu"
    )
    reverse = 1000 - timesteps
    predicted: Tensor = pipe.transformer(
        hidden_states=noisy, encoder_hidden_states=prompt_embeds, encoder_attention_mask=prompt_attention_mask,
        timestep=reverse / 1000, return_dict=False,
    )[0]  # fmt: skip
    return -predicted


EXAMPLES = {
    "z_image": z_image,
    "qwen_image": qwen_image,
    "flux_2": flux_2,
    "flux_2_klein": flux_2,
    "sana": sana,
    "lumina_2": lumina_2,
}
"""Family -> the prediction of its example, as a velocity eps - x_0 [B, C, h, w]."""


@torch.no_grad()
def example_latents(name: str, pipe: Any, pixels: Tensor, noise: Tensor) -> Tensor:
    """The example's ``model_input`` of ``pixels``; ``noise`` [B, ...] is what a posterior is sampled with."""
    config = pipe.vae.config
    if name == "sana":
        latents = pipe.vae.encode(pixels).latent * config.scaling_factor
    elif name == "qwen_image":
        posterior = pipe.vae.encode(pixels.unsqueeze(2)).latent_dist
        middle, spread = (
            torch.tensor(values).view(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std)
        )
        latents = ((posterior.mean + posterior.std * noise.unsqueeze(2)).squeeze(2) - middle) * (1.0 / spread)
    elif name.startswith("flux_2"):
        norm = pipe.vae.bn
        patches = Flux2Pipeline._patchify_latents(pipe.vae.encode(pixels).latent_dist.mode())
        spread = torch.sqrt(norm.running_var.view(1, -1, 1, 1) + config.batch_norm_eps)
        latents = (patches - norm.running_mean.view(1, -1, 1, 1)) / spread
    else:
        posterior = pipe.vae.encode(pixels).latent_dist
        sampled = posterior.mode() if name == "z_image" else posterior.mean + posterior.std * noise
        latents = (sampled - (config.get("shift_factor") or 0.0)) * config.scaling_factor
    return latents  # type: ignore[no-any-return]
