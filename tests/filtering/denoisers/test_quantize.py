"""Frozen parts in fewer bits: which layers, how near, what they weigh, and what is refused."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from transformers import T5Config, T5EncoderModel

from memsieve.filtering.denoisers.fingerprint import model_hashes
from memsieve.filtering.denoisers.lora import AdapterOff, LoraSettings, adapted_layers, add_lora, trained_parameters
from memsieve.filtering.denoisers.lora_files import export_lora
from memsieve.filtering.denoisers.parts import Dtypes
from memsieve.filtering.denoisers.quantize import Bits, Quantize, precision_of, weight_bytes
from memsieve.filtering.denoisers.registry import open_as, open_denoiser
from tests.filtering.denoisers.ldm import save_ldm
from tests.filtering.denoisers.test_lora import adapted, predicted
from tests.tiny_models import TINY_FAMILIES, tiny_family

Folder = Callable[[str], Path]
bitsandbytes = pytest.importorskip("bitsandbytes")
CPU = torch.device("cpu")
BOTH: list[Bits] = ["nf4", "int8"]


def in_fewer_bits(path: str, network: Bits | None, text: Bits | None = None) -> Any:
    return open_as(path, Dtypes(quantize=Quantize(network, text, CPU)))


@pytest.mark.parametrize(
    "name", ["sd", *(pytest.param(name, marks=pytest.mark.slow) for name in TINY_FAMILIES if name != "sd")]
)
@pytest.mark.parametrize("bits", BOTH)
def test_a_lora_on_a_base_in_fewer_bits(name: str, bits: Bits, family_folder: Folder) -> None:
    """Near the plain base, the network and the text encoders; the adapter moves it, and off is the base again."""
    plain = open_denoiser(str(family_folder(name)))
    denoiser = in_fewer_bits(str(family_folder(name)), bits, bits)
    kind = bitsandbytes.nn.Linear4bit if bits == "nf4" else bitsandbytes.nn.Linear8bitLt
    for part in (denoiser.model, denoiser.text_encoder):
        linear = [module for module in part.modules() if isinstance(module, torch.nn.Linear)]
        # transformers keeps T5's wo as it is
        assert sum(isinstance(module, kind) for module in linear) >= 0.7 * len(linear) > 0
    before = predicted(denoiser)
    apart = float((before - predicted(plain)).norm() / predicted(plain).norm())
    assert 1e-4 < apart < (0.35 if bits == "nf4" else 0.05)
    add_lora(denoiser, LoraSettings(rank=2, init="default"), seed=0)
    assert all(isinstance(layer.base_layer, kind) for layer in adapted_layers(denoiser.model))
    assert torch.equal(predicted(denoiser), before), "B starts at zero"
    with torch.no_grad():
        for parameter in trained_parameters(denoiser.model):
            parameter.add_(0.1)
    assert (predicted(denoiser) - before).abs().max() > 1e-3
    assert torch.equal(predicted(denoiser, AdapterOff(denoiser.model)), before)
    hashes = model_hashes(denoiser), model_hashes(plain)
    assert hashes[0].keys() == hashes[1].keys() and hashes[0]["vae"] == hashes[1]["vae"]


@pytest.mark.parametrize("bits", BOTH)
def test_what_it_weighs(bits: Bits, family_folder: Folder) -> None:
    """By shapes, as by what was loaded; nothing but linear layers is made smaller."""
    plain = open_denoiser(str(family_folder("flux"))).model
    loaded = in_fewer_bits(str(family_folder("flux")), bits).model
    scales = "absmax" if bits == "nf4" else "SCB"
    held = sum(parameter.nbytes for parameter in loaded.parameters())
    held += sum(value.nbytes for name, value in loaded.state_dict().items() if name.endswith(scales))
    assert weight_bytes(plain, torch.float32, bits) == pytest.approx(held, rel=0.01)
    assert weight_bytes(plain, torch.float32) == sum(parameter.nbytes for parameter in plain.parameters())
    assert weight_bytes(plain.to("meta"), torch.bfloat16, bits) < held


@pytest.mark.slow
def test_a_checkpoint_in_one_file_is_made_a_folder_first(family_folder: Folder, tmp_path: Path) -> None:
    """By the command that the refusal has."""
    file = save_ldm(tiny_family("sd"), tmp_path / "model.safetensors")
    named = f"{file}::{family_folder('sd')}"
    with pytest.raises(ValueError, match=r"^model\.text_encoder_quantize: .* holds no text_encoder in fewer bits"):
        in_fewer_bits(named, None, "int8")
    with pytest.raises(ValueError, match=r"^model\.quantize: .* holds no unet in fewer bits.*python -c ") as refused:
        in_fewer_bits(named, "nf4")
    command = str(refused.value).partition("name that: ")[2].replace("FOLDER", str(tmp_path / "folder"))
    python, *options = shlex.split(command)
    assert python == "python"
    subprocess.run([sys.executable, *options], check=True, capture_output=True)
    made, plain = (in_fewer_bits(str(folder), "nf4") for folder in (tmp_path / "folder", family_folder("sd")))
    assert torch.equal(predicted(made), predicted(plain))


def test_what_cannot_be_is_refused(family_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = adapted("sd")
    export_lora(denoiser, tmp_path, denoiser.model, str(family_folder("sd")))
    with pytest.raises(ValueError, match=r"model\.quantize: nf4: '.*' is a LoRA, which would be rounded"):
        in_fewer_bits(str(tmp_path), "nf4")
    with pytest.raises(ValueError, match=r"model\.quantize: int8: this bitsandbytes \(.*\) knows .*trained on meta"):
        open_as(str(family_folder("sd")), Dtypes(quantize=Quantize("int8", None, torch.device("meta"))))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(
        ValueError, match=r"model\.text_encoder_quantize: nf4 needs bitsandbytes.*pip install .*\[bnb\]"
    ):
        in_fewer_bits(str(family_folder("sd")), None, "nf4")


@pytest.mark.slow
def test_the_docs_table_is_computed() -> None:
    """From the shapes of the real networks, whose weights are not made."""
    with torch.device("meta"):
        made = {
            "Stable Diffusion 1.5: UNet": UNet2DConditionModel(cross_attention_dim=768),
            "SDXL: UNet": UNet2DConditionModel(
                block_out_channels=(320, 640, 1280), cross_attention_dim=2048, attention_head_dim=(5, 10, 20),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_time_embed_dim=256,
                addition_embed_type="text_time", projection_class_embeddings_input_dim=2816,
            ),
            "SD 3.5 large: transformer": SD3Transformer2DModel(
                num_layers=38, num_attention_heads=38, joint_attention_dim=4096, caption_projection_dim=2432,
                pooled_projection_dim=2048, pos_embed_max_size=192, qk_norm="rms_norm",
            ),
            "Flux.1: transformer": FluxTransformer2DModel(guidance_embeds=True),
            "T5-XXL (SD 3, Flux, PixArt)": T5EncoderModel(
                T5Config(d_model=4096, d_ff=10240, num_heads=64, num_layers=24, feed_forward_proj="gated-gelu")
            ),
        }  # fmt: skip
    page = (Path(__file__).parents[3] / "docs" / "training-options.md").read_text(encoding="utf-8")
    columns = ((torch.float32, None), (torch.bfloat16, None), (torch.bfloat16, "int8"), (torch.bfloat16, "nf4"))
    for name, module in made.items():
        gigabytes = [weight_bytes(module, dtype, bits) / 1e9 for dtype, bits in columns]
        assert f"| {name} | {' | '.join(f'{value:.1f}' for value in gigabytes)} |" in page


@pytest.mark.parametrize("bits", BOTH)
def test_the_model_before_fine_tuning_takes_numbers_where_its_first_weights_are_packed(
    family_folder: Folder, bits: Bits
) -> None:
    """Flux begins with a linear layer, whose weights are bytes now."""
    opened = in_fewer_bits(str(family_folder("flux")), bits)
    add_lora(opened, LoraSettings(rank=2), seed=0)
    before = AdapterOff(opened.model)
    assert not next(before.parameters()).is_floating_point()
    kind = precision_of(before)
    noisy = torch.randn(1, *opened.latent_shape(16))
    states = opened.conditioning(["cat"]).to(dtype=kind)
    with torch.no_grad():
        found = opened.predict(before, noisy.to(kind), torch.tensor([500.0]), states)
    assert found.shape == noisy.shape and torch.isfinite(found).all()
