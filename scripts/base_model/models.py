"""The parts of the tiny base pipeline: tokenizer, models, and how they are saved; used by ``build.py``."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["SIZE", "TINY_SD", "TOKENS", "Sizes", "load_pipeline", "new_models", "save_pipeline", "train_tokenizer"]

SIZE = 32
"""Side of the images: with 2 x downsampling the latents are [4, 16, 16]."""
TOKENS = 32
"""Length of a tokenised caption."""


def train_tokenizer(captions: list[str], vocabulary: int = 1500) -> Any:
    """Train a CLIP-format byte-pair tokenizer (vocab.json and merges.txt, words end in ``</w>``)."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    core = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    core.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, behavior="removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    core.train_from_iterator(captions, trainer)
    with tempfile.TemporaryDirectory() as folder:
        core.model.save(folder)
        vocab = json.loads((Path(folder) / "vocab.json").read_text(encoding="utf-8"))
        # CLIP expects every byte as the end of a word too, and its two markers last.
        for symbol in [f"{byte}</w>" for byte in sorted(pre_tokenizers.ByteLevel.alphabet())]:
            vocab.setdefault(symbol, len(vocab))
        for marker in ("<|startoftext|>", "<|endoftext|>"):
            vocab[marker] = len(vocab)
        (Path(folder) / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
        (Path(folder) / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS}), encoding="utf-8"
        )
        return CLIPTokenizer.from_pretrained(folder, model_max_length=TOKENS)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large a pipeline's parts are.

    Attributes:
        side: of the images, in pixels.
        vae: channels of the autoencoder's levels, each but the first half as wide and high as the one before.
        text: width of the text encoder, and of what the UNet attends to.
        unet: channels of the UNet's two levels.
    """

    side: int
    vae: tuple[int, ...]
    text: int
    unet: tuple[int, int]

    @property
    def factor(self) -> int:
        """Pixels a side of a latent's place."""
        return 2 ** (len(self.vae) - 1)


TINY_SD = Sizes(SIZE, (24, 48), 96, (48, 96))
"""Together under 10 MB."""


def new_models(tokenizer: Any, sizes: Sizes = TINY_SD) -> tuple[Any, Any, Any]:
    """Fresh (autoencoder, text encoder, UNet)."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vae = AutoencoderKL(
        sample_size=sizes.side,
        down_block_types=("DownEncoderBlock2D",) * len(sizes.vae),
        up_block_types=("UpDecoderBlock2D",) * len(sizes.vae),
        block_out_channels=sizes.vae,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=sizes.text,
            intermediate_size=4 * sizes.text,
            projection_dim=sizes.text,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=sizes.side // sizes.factor,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=sizes.unet,
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=sizes.text,
        attention_head_dim=4,
    )
    return vae, text, unet


def save_pipeline(out: Path, vae: Any, text: Any, tokenizer: Any, unet: Any) -> None:
    """Write the pipeline beside ``out`` and swap it in, so that ``out`` is whole at any time. UNet and autoencoder
    are stored in half precision."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        vae=_half(vae), text_encoder=text, tokenizer=tokenizer, unet=_half(unet), scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    work = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    pipeline.save_pretrained(work, safe_serialization=True)
    for extra in ("README.md", "metrics.json", "held_out.json"):
        if (out / extra).is_file():
            shutil.copy(out / extra, work / extra)
    shutil.rmtree(out, ignore_errors=True)
    work.rename(out)


def load_pipeline(folder: Path) -> tuple[Any, Any, Any, Any]:
    """(autoencoder, text encoder, tokenizer, UNet) of a saved pipeline, in full precision; the first is frozen."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    vae = pipeline.vae.requires_grad_(False).eval()
    return vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.unet


def _half(model: Any) -> Any:
    # Not from_config: it would put defaults back in place of settings changed since, such as the scaling factor.
    return copy.deepcopy(model).half()
