"""Random pipelines of the real classes, one for each model family, small enough to run in milliseconds.

They draw 16x16 images (``side_of`` says which do not), and know the letters; nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from tests import tiny_recent

__all__ = [
    "DISTILLED",
    "FLOW",
    "GUIDED",
    "LETTERS",
    "OLDER",
    "RECENT",
    "TINY_FAMILIES",
    "recent_slow",
    "side_of",
    "tiny_family",
    "tiny_pipeline",
]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIGNS = LETTERS + "0123456789.,!<>/"
MERGES = [("c", "a"), ("ca", "t</w>")]
LEARNED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def tiny_pipeline(
    scheduler: Any, *, letters: str = LETTERS, merges: Sequence[tuple[str, str]] = (), seed: int = 0
) -> StableDiffusionPipeline:
    """Stable Diffusion: 16 tokens, a tokenizer of ``letters`` and of what ``merges`` join."""
    torch.manual_seed(seed)
    tokenizer = _clip_tokenizer(letters, merges)
    text = _clip_config(tokenizer, layers=1)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return StableDiffusionPipeline(
        vae=_vae(), text_encoder=CLIPTextModel(text), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def _sd(prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(
        **LEARNED, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type
    )
    return tiny_pipeline(scheduler, letters=SIGNS, merges=MERGES)


def _sdxl(prediction_type: str = "epsilon") -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    tokenizer = _clip_tokenizer(SIGNS, MERGES)
    config = _clip_config(tokenizer)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=32, attention_head_dim=(2, 4), transformer_layers_per_block=(1, 1),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025), text_encoder=CLIPTextModel(config), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(config), tokenizer_2=_clip_tokenizer(SIGNS, MERGES), unet=unet,
        scheduler=EulerDiscreteScheduler(**LEARNED, prediction_type=prediction_type), add_watermarker=False,
    )  # fmt: skip


def _sd3() -> StableDiffusion3Pipeline:
    torch.manual_seed(0)
    tokenizer, t5 = _clip_tokenizer(SIGNS, MERGES), _t5_tokenizer()
    config = _clip_config(tokenizer)
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=32,
        pos_embed_max_size=8, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        vae=_vae(scaling_factor=1.5305, shift_factor=0.0609), transformer=transformer,
        text_encoder=CLIPTextModelWithProjection(config), tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(config), tokenizer_2=_clip_tokenizer(SIGNS, MERGES),
        text_encoder_3=_t5(t5, 40), tokenizer_3=t5, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )  # fmt: skip


def _flux(guidance_embeds: bool = True) -> FluxPipeline:
    torch.manual_seed(0)
    tokenizer, t5 = _clip_tokenizer(SIGNS, MERGES), _t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 6, 6), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    return FluxPipeline(
        vae=_vae(scaling_factor=0.3611, shift_factor=0.1159), transformer=transformer,
        text_encoder=CLIPTextModel(_clip_config(tokenizer)), tokenizer=tokenizer, text_encoder_2=_t5(t5, 32),
        tokenizer_2=t5, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )  # fmt: skip


def _flux_guided() -> FluxPipeline:
    return _flux(guidance_embeds=False)


def _pixart(prediction_type: str = "epsilon") -> PixArtSigmaPipeline:
    torch.manual_seed(0)
    t5 = _t5_tokenizer()
    transformer = PixArtTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, cross_attention_dim=16, caption_channels=32,
    )  # fmt: skip
    return PixArtSigmaPipeline(
        vae=_vae(), transformer=transformer, text_encoder=_t5(t5, 32), tokenizer=t5,
        scheduler=DPMSolverMultistepScheduler(prediction_type=prediction_type),
    )  # fmt: skip


_BUILDERS: dict[str, Callable[..., Any]] = {
    "sd": _sd,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
    "flux_guided": _flux_guided,
    "pixart": _pixart,
    "sana": tiny_recent.sana,
    "lumina_2": tiny_recent.lumina_2_pipeline,
    "qwen_image": tiny_recent.qwen_image_pipeline,
    "z_image": tiny_recent.z_image,
    "flux_2": tiny_recent.flux_2,
    "flux_2_klein": tiny_recent.flux_2_klein,
}
TINY_FAMILIES = tuple(_BUILDERS)
"""``flux`` is guidance-distilled as FLUX.1-dev, ``flux_guided`` is not."""
RECENT = TINY_FAMILIES[6:]
"""Those whose text encoders are language models."""
OLDER = TINY_FAMILIES[:6]
"""The others."""
DISTILLED = ("flux", "flux_2")
"""Those without an unconditional branch; ``flux_2_klein`` has a setting for it."""
GUIDED = tuple(name for name in TINY_FAMILIES if name not in DISTILLED)
FLOW = tuple(name for name in TINY_FAMILIES if name not in ("sd", "sdxl", "pixart"))


def side_of(name: str) -> int:
    """Pixels a side of the images that a family's tiny pipeline draws."""
    return 32 if name in ("sana", "lumina_2") else 16


def recent_slow(names: Sequence[str] = TINY_FAMILIES) -> list[Any]:
    """``names`` as cases of a test, the recent families marked as slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in RECENT else []) for name in names]


def tiny_family(name: str, **settings: Any) -> Any:
    """A new pipeline of a family, in evaluation mode (fresh T5 encoders drop out), its progress bar off.

    Args:
        settings: ``prediction_type``, of the diffusion families; ``is_distilled``, of Flux.2 klein.
    """
    pipe = _BUILDERS[name](**settings)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _clip_tokenizer(letters: str, merges: Sequence[tuple[str, str]]) -> CLIPTokenizer:
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=list(merges), model_max_length=16)


def _clip_config(tokenizer: CLIPTokenizer, layers: int = 2) -> CLIPTextConfig:
    words = len(tokenizer)
    return CLIPTextConfig(
        vocab_size=words, hidden_size=16, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=words - 2, eos_token_id=words - 1, projection_dim=16,
    )  # fmt: skip


def _t5_tokenizer() -> T5TokenizerFast:
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -2.0), ("cat", -2.0), ("▁cat", -1.0)]
    vocab += [(letter, -3.0) for letter in SIGNS] + [("▁" + letter, -2.5) for letter in SIGNS]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=512)


def _t5(tokenizer: T5TokenizerFast, width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5EncoderModel(config)


def _vae(**settings: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **settings,
    )  # fmt: skip
