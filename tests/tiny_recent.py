"""Random pipelines of the families whose text encoders are language models, from the real classes.

Their tokenizers know the letters, and what a pipeline puts around prompts as few tokens, so that a prompt stands where
it stands in the real model's sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from transformers import (
    AddedToken,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizerFast,
    LlamaTokenizerFast,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)

from memsieve.filtering.denoisers import lumina_2, qwen_image

__all__ = ["flux_2", "flux_2_klein", "lumina_2_pipeline", "qwen_image_pipeline", "sana", "z_image"]

PRINTABLE = [chr(code) for code in range(33, 127)]
JOINED = [("c", "a"), ("ca", "t"), ("d", "o"), ("do", "g")]
SPREAD = 0.3
"""Of the language models' weights: with the usual .02, Flux.2's network is told next to nothing, layers being unnormed.
"""
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Qwen3's, without tools."""
SYSTEM = (
    "{% for message in messages %}{% if message.role == 'system' %}[SYSTEM_PROMPT]{% else %}[INST]{% endif %}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}"
    "{% if message.role == 'system' %}[/SYSTEM_PROMPT]{% else %}[/INST]{% endif %}{% endfor %}"
)
"""Mistral's, without pictures."""


def z_image() -> ZImagePipeline:
    torch.manual_seed(0)
    tokenizer = _qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=1, n_kv_heads=1, cap_feat_dim=16,
        axes_dims=[4, 6, 6], axes_lens=[1024, 32, 32],
    )  # fmt: skip
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0), vae=_vae(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=Qwen3Model(_qwen3_config(tokenizer, 2, 16)), tokenizer=tokenizer, transformer=transformer,
    )  # fmt: skip


def qwen_image_pipeline() -> QwenImagePipeline:
    torch.manual_seed(0)
    tokenizer = _qwen_tokenizer()
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[-0.2, 0.1, 0.3, 0.0], latents_std=[1.5, 0.8, 1.2, 1.0],
    )  # fmt: skip
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048, "rope_parameters": rope,
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
        "patch_size": 14, "fullatt_block_indexes": [0],
    }  # fmt: skip
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02,
            time_shift_type="exponential",
        ),
        vae=vae, text_encoder=encoder, tokenizer=tokenizer, transformer=transformer,
    )  # fmt: skip


def flux_2() -> Flux2Pipeline:
    torch.manual_seed(0)
    tokenizer = _mistral_tokenizer()
    text = {
        "model_type": "mistral", "vocab_size": len(tokenizer), "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 30, "num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8,
        "initializer_range": SPREAD,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 1, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    encoder = Mistral3ForConditionalGeneration(Mistral3Config(text_config=text, vision_config=vision))
    return Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=_flux_2_vae(),
        text_encoder=encoder, tokenizer=tokenizer, transformer=_flux_2_transformer(guidance_embeds=True),
    )  # fmt: skip


def flux_2_klein(is_distilled: bool = False) -> Flux2KleinPipeline:
    torch.manual_seed(0)
    tokenizer = _qwen_tokenizer()
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), vae=_flux_2_vae(),
        text_encoder=Qwen3ForCausalLM(_qwen3_config(tokenizer, 27, 8)), tokenizer=tokenizer,
        transformer=_flux_2_transformer(guidance_embeds=False), is_distilled=is_distilled,
    )  # fmt: skip


def sana() -> SanaPipeline:
    """It draws 32x32 images, in 8x8 latents: the pipeline knows no smaller ones."""
    torch.manual_seed(0)
    instruction = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    tokenizer = _gemma_tokenizer("\n".join(instruction).strip())
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        sample_size=8,
    )  # fmt: skip
    vae = AutoencoderDC(
        latent_channels=4, encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()), decoder_qkv_multiscales=((), (), ()), scaling_factor=0.41407,
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, algorithm_type="dpmsolver++"
    )
    return SanaPipeline(
        tokenizer=tokenizer, text_encoder=Gemma2Model(_gemma_config(tokenizer)), vae=vae, transformer=transformer,
        scheduler=scheduler,
    )  # fmt: skip


def lumina_2_pipeline() -> Lumina2Pipeline:
    """It draws 32x32 images, in 4x4 latents: the pipeline's factor is 8 whatever the VAE's."""
    torch.manual_seed(0)
    tokenizer = _gemma_tokenizer(lumina_2.BEFORE)
    transformer = Lumina2Transformer2DModel(
        sample_size=4, in_channels=4, hidden_size=16, num_layers=1, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 2, 2), axes_lens=(300, 32, 32), cap_feat_dim=16,
    )  # fmt: skip
    return Lumina2Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0), tokenizer=tokenizer,
        vae=_vae(levels=4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=Gemma2Model(_gemma_config(tokenizer)),
    )  # fmt: skip


def _vae(levels: int = 2, **settings: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,) * levels, norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels, **settings,
    )  # fmt: skip


def _flux_2_vae() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    vae.bn.running_mean.uniform_(-0.5, 0.5)
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


def _flux_2_transformer(guidance_embeds: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=24, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds,
    )  # fmt: skip


def _qwen3_config(tokenizer: Any, layers: int, width: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=width, num_hidden_layers=layers,
        num_attention_heads=1, num_key_value_heads=1, head_dim=8, max_position_embeddings=1024, use_cache=False,
        initializer_range=SPREAD,
    )  # fmt: skip


def _gemma_config(tokenizer: Any) -> Gemma2Config:
    return Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16, max_position_embeddings=1024, use_cache=False,
    )  # fmt: skip


def _qwen_tokenizer() -> Qwen2TokenizerFast:
    """Bytes, two words with the space before them, and the templates' words: Qwen-Image's first part is 34 tokens."""
    merges = [*JOINED, ("Ġ", "cat"), ("Ġ", "dog")]
    tokens = ["<|endoftext|>", "Ġ", "Ċ", *PRINTABLE, *("".join(pair) for pair in merges)]
    tokenizer = Qwen2TokenizerFast(
        vocab={token: place for place, token in enumerate(tokens)}, merges=merges, model_max_length=1024
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    said = qwen_image.BEFORE.split("system\n")[1].split(":<|im_end|>")[0].replace(",", "").split(" ")
    words = [said[0], *(f" {word}" for word in said[1:]), "system", "user", "assistant", "<think>", "</think>"]
    _add(tokenizer, words)
    tokenizer.chat_template = CHAT
    assert len(tokenizer(qwen_image.BEFORE).input_ids) == qwen_image.DROPPED
    return tokenizer


def _gemma_tokenizer(before: str) -> GemmaTokenizerFast:
    """Letters, and ``before``, which the pipeline puts before a prompt, as one token."""
    merges = [*JOINED, ("▁", "cat"), ("▁", "dog")]
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *PRINTABLE]
    tokens += ["".join(pair) for pair in merges]
    tokenizer = GemmaTokenizerFast(
        vocab={token: place for place, token in enumerate(tokens)}, merges=merges, model_max_length=1024,
        add_bos_token=True,
    )  # fmt: skip
    _add(tokenizer, [before])
    assert tokenizer("cat").input_ids[0] == tokenizer.bos_token_id
    return tokenizer


def _mistral_tokenizer() -> LlamaTokenizerFast:
    """Alone, where the real model has a PixtralProcessor around it, which needs torchvision: its pictures are not drawn
    from, and a text goes the same way through both."""
    merges = [*JOINED, ("▁", "cat"), ("▁", "dog")]
    tokens = ["<unk>", "<s>", "</s>", "<pad>", "▁", "<0x0A>", *PRINTABLE, *("".join(pair) for pair in merges)]
    tokenizer = LlamaTokenizerFast(
        vocab={token: place for place, token in enumerate(tokens)}, merges=merges, pad_token="<pad>",
        model_max_length=1024, add_bos_token=False,
    )  # fmt: skip
    signs = ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"]
    tokenizer.add_special_tokens({"additional_special_tokens": signs})
    _add(tokenizer, [SYSTEM_MESSAGE])
    tokenizer.chat_template = SYSTEM
    return tokenizer


def _add(tokenizer: Any, words: Sequence[str]) -> None:
    tokenizer.add_tokens([AddedToken(word, normalized=False, special=False) for word in dict.fromkeys(words)])
