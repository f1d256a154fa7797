"""LoRA files: what is written, which programs' names it has, and what is read and added to the weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from memsieve.filtering.denoisers.lora import AdapterOff, LoraSettings, add_lora, trained_parameters
from memsieve.filtering.denoisers.lora_files import KOHYA_FILE, LORA_FILE, adapts_text, base_of, export_lora, fuse_lora
from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from tests.filtering.denoisers.test_lora import adapted, predicted
from tests.tiny_models import tiny_family

Folder = Callable[[str], Path]
EVERYWHERE = ["to_k", "to_out.0", "conv1", "conv2", "conv_in", "conv_out", "ff.net.0.proj", "time_emb_proj", "proj_in",
              "conv_shortcut"]  # fmt: skip
"""Layers of each kind that a UNet has, at its ends too."""


@pytest.mark.parametrize("name", ["sd", "pixart"])
def test_what_is_written_is_added_to_the_base(name: str, tmp_path: Path) -> None:
    """In diffusers' file and in peft's. Alpha is not the rank here; the network is a plain one afterwards."""
    denoiser = adapted(name, alpha=5)
    export_lora(denoiser, tmp_path, denoiser.model, "someone/base")
    base = denoiser_of(tiny_family(name))
    before = predicted(base)
    fuse_lora(base.pipeline(), str(tmp_path))
    assert torch.allclose(predicted(base), predicted(denoiser), atol=1e-5)
    assert (predicted(base) - before).abs().max() > 1e-3
    assert base_of(str(tmp_path)) == "someone/base"
    assert not any("lora" in part for part, _ in base.model.named_parameters())


def test_weights_that_are_given_are_written_in_place_of_the_models_own(tmp_path: Path) -> None:
    """Where the network is spread over processes, it does not hold its weights itself."""
    denoiser = adapted("sd")
    weights = {name: torch.full_like(value, 3.0) for name, value in denoiser.model.state_dict().items()}
    export_lora(denoiser, tmp_path, denoiser.model, "someone/base", weights)
    written = load_file(tmp_path / LORA_FILE)
    assert written and all((value == 3.0).all() for value in written.values())


def test_pixart_gets_the_files_of_peft(tmp_path: Path) -> None:
    """Its pipeline has no load_lora_weights; as in diffusers' example for it."""
    denoiser = adapted("pixart")
    export_lora(denoiser, tmp_path, denoiser.model, "someone/base")
    files = {"adapter_config.json", "adapter_model.safetensors", "base_model.json"}
    assert files <= {path.name for path in tmp_path.iterdir()} and not (tmp_path / LORA_FILE).exists()
    plain = denoiser_of(tiny_family("pixart"))
    loaded = PeftModel.from_pretrained(plain.model, tmp_path)
    assert torch.allclose(predicted(plain, loaded), predicted(denoiser), atol=1e-5)


def test_a_base_in_a_folder_is_noted_by_its_whole_path(
    family_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is opened from another working folder."""
    monkeypatch.chdir(family_folder("sd").parent)
    denoiser = adapted("sd")
    export_lora(denoiser, tmp_path, denoiser.model, "sd")
    monkeypatch.chdir(tmp_path)
    assert base_of(".") == str(family_folder("sd").resolve())
    assert torch.allclose(predicted(open_denoiser(str(tmp_path))), predicted(denoiser), atol=1e-5)


def test_a_folder_is_a_lora_by_its_weights_and_must_name_its_base(tmp_path: Path) -> None:
    assert base_of(str(tmp_path)) is None and base_of(str(tmp_path / "nothing")) is None
    (tmp_path / LORA_FILE).write_bytes(b"")
    for text in (None, "{", "[]", '{"base": "x"}'):
        if text is not None:
            (tmp_path / "base_model.json").write_text(text)
        with pytest.raises(ValueError, match=r"--model: '.*' holds a LoRA, and no base_model\.json that names"):
            base_of(str(tmp_path), "--model")
    with pytest.raises(ValueError, match=r"^model\.path: '.*' holds a LoRA, and no base_model\.json"):
        open_denoiser(str(tmp_path))
    # What the message says
    (tmp_path / "base_model.json").write_text(json.dumps({"base_model": "someone/base"}))
    assert base_of(str(tmp_path)) == "someone/base"


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # peft, which goes on
@pytest.mark.parametrize(
    ("lora", "base", "sentence"),
    [
        ("sd", "sdxl", "size mismatch|Error"),  # the same names with other shapes
        ("sd", "sd3", "of its 32 layers none can be put into a StableDiffusion3Pipeline"),
        ("sd", "pixart", "a PixArtSigmaPipeline takes none of this kind"),
        ("pixart", "sd", "its layers are others than those of a UNet2DConditionModel"),
        ("pixart", "flux", "its layers are others than those of a FluxTransformer2DModel"),
    ],
)
def test_a_lora_of_another_model_is_refused_and_not_left_out(
    lora: str, base: str, sentence: str, tmp_path: Path
) -> None:
    """A base without it would be measured as if it were the result."""
    denoiser = adapted(lora)
    export_lora(denoiser, tmp_path, denoiser.model, "someone/base")
    with pytest.raises(ValueError, match=rf"^--model: the LoRA in '.*' does not fit its base model: .*({sentence})"):
        fuse_lora(tiny_family(base), str(tmp_path), "--model")


@pytest.mark.parametrize(("name", "file"), [("sd", LORA_FILE), ("pixart", "adapter_model.safetensors")])
def test_a_damaged_lora_is_refused(name: str, file: str, tmp_path: Path) -> None:
    denoiser = adapted(name)
    export_lora(denoiser, tmp_path, denoiser.model, "someone/base")
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model\.path: the LoRA in '.*' does not fit its base model"):
        fuse_lora(tiny_family(name), str(tmp_path))


# -- the names of other programs ---------------------------------------------------------------------------------------


def merged_as_by_kohya(unet: torch.nn.Module, file: Path) -> set[str]:
    """As sd-scripts' networks/merge_lora.py adds a file to a UNet; gives the layers of the file that it has."""
    state = load_file(file)
    found = set()
    for name, module in unet.named_modules():
        key = f"lora_unet.{name}".replace(".", "_")
        if f"{key}.lora_down.weight" not in state:
            continue
        found.add(key)
        down, up = (state[f"{key}.lora_{part}.weight"] for part in ("down", "up"))
        scale = float(state[f"{key}.alpha"]) / down.shape[0]
        with torch.no_grad():
            module.weight += scale * (up.flatten(1) @ down.flatten(1)).reshape(module.weight.shape)
    return found


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("target_modules", [None, EVERYWHERE])
def test_a_unets_adapter_in_kohyas_names(name: str, target_modules: list[str] | None, tmp_path: Path) -> None:
    """Read by kohya's rule, by diffusers and by our own opener the network is the one that was trained; alpha is not
    the rank here."""
    denoiser = adapted(name, rank=2, alpha=5, target_modules=target_modules)
    export_lora(denoiser, tmp_path, denoiser.model, "someone/base")
    written = load_file(tmp_path / KOHYA_FILE)
    layers = {key.partition(".")[0] for key in written}
    ends = ("lora_down.weight", "lora_up.weight", "alpha")
    assert written.keys() == {f"{layer}.{end}" for layer in layers for end in ends}
    assert all(written[f"{layer}.alpha"].shape == () for layer in layers), "a number, not a list of one"
    assert "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_out_0" in layers
    by_kohya, by_diffusers, ours = (denoiser_of(tiny_family(name)) for _ in range(3))
    assert merged_as_by_kohya(by_kohya.model, tmp_path / KOHYA_FILE) == layers
    by_diffusers.pipeline().load_lora_weights(str(tmp_path), weight_name=KOHYA_FILE)
    fuse_lora(ours.pipeline(), str(tmp_path / KOHYA_FILE))
    for read in (by_kohya, by_diffusers, ours):
        assert torch.allclose(predicted(read), predicted(denoiser), atol=1e-5)
    assert (predicted(denoiser_of(tiny_family(name))) - predicted(denoiser)).abs().max() > 1e-2


def test_a_folder_with_both_files_is_read_without_naming_one(tmp_path: Path) -> None:
    """diffusers takes its own."""
    denoiser = adapted("sd")
    export_lora(denoiser, tmp_path, denoiser.model, "someone/base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base_model.json", KOHYA_FILE, LORA_FILE]
    plain = denoiser_of(tiny_family("sd"))
    plain.pipeline().load_lora_weights(str(tmp_path))
    assert torch.allclose(predicted(plain), predicted(denoiser), atol=1e-5)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_transformers_have_no_converter_and_keep_diffusers_names(name: str, tmp_path: Path) -> None:
    """ComfyUI reads these, and no alpha in them: the strength is in the weights."""
    denoiser = adapted(name, rank=2, alpha=5)
    export_lora(denoiser, tmp_path, denoiser.model, "someone/base")
    assert not (tmp_path / KOHYA_FILE).exists()
    written = load_file(tmp_path / LORA_FILE)
    plain = denoiser_of(tiny_family(name))
    with torch.no_grad():
        for key, down in written.items():
            if key.endswith(".lora_A.weight"):
                layer = plain.model.get_submodule(key.removeprefix("transformer.").removesuffix(".lora_A.weight"))
                layer.weight += written[key.replace("lora_A", "lora_B")] @ down
    assert torch.allclose(predicted(plain), predicted(denoiser), atol=1e-5)


def in_sgm_names(file: Path, out: Path) -> Path:
    """A file of SDXL's attention layers as sd-scripts trains them: on the original network, of one layer a block."""
    blocks = {
        "down_blocks_1_attentions_0": "input_blocks_3_1",
        "mid_block_attentions_0": "middle_block_1",
        "up_blocks_0_attentions_0": "output_blocks_0_1",
        "up_blocks_0_attentions_1": "output_blocks_1_1",
    }
    state = {}
    for key, value in load_file(file).items():
        (block,) = [name for name in blocks if name in key]
        state[key.replace(block, blocks[block])] = value
    save_file(state, out)
    return out


def test_a_file_that_kohya_trained_on_sdxls_original_network_is_read(tmp_path: Path) -> None:
    denoiser = adapted("sdxl")
    export_lora(denoiser, tmp_path, denoiser.model, "someone/base")
    file = in_sgm_names(tmp_path / KOHYA_FILE, tmp_path / "original.safetensors")
    plain = denoiser_of(tiny_family("sdxl"))
    fuse_lora(plain.pipeline(), str(file))
    assert torch.allclose(predicted(plain), predicted(denoiser), atol=1e-5)


TEXT_LAYERS = [*(f"self_attn_{part}_proj" for part in ("q", "k", "v", "out")), "mlp_fc1", "mlp_fc2"]
"""What sd-scripts adapts of a text encoder."""


def with_text_layers(name: str, file: Path, out: Path) -> Path:
    """``file`` with the text encoders adapted too, in kohya's names."""
    state = load_file(file)
    generator = torch.Generator().manual_seed(0)
    for prefix in ["lora_te"] if name == "sd" else ["lora_te1", "lora_te2"]:
        for part in TEXT_LAYERS:
            layer = f"{prefix}_text_model_encoder_layers_0_{part}"
            state |= {
                f"{layer}.lora_down.weight": torch.randn(2, 16, generator=generator),
                f"{layer}.lora_up.weight": torch.randn(16, 2, generator=generator),
                f"{layer}.alpha": torch.tensor(1.0),
            }
    save_file(state, out)
    return out


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_text_encoders_in_a_file_of_kohyas_are_adapted_too(name: str, tmp_path: Path) -> None:
    denoiser = adapted(name)
    export_lora(denoiser, tmp_path, denoiser.model, "someone/base")
    file = with_text_layers(name, tmp_path / KOHYA_FILE, tmp_path / "text.safetensors")
    assert adapts_text(str(file)) and not adapts_text(str(tmp_path / KOHYA_FILE)) and not adapts_text(str(tmp_path))
    plain, ours = denoiser_of(tiny_family(name)), denoiser_of(tiny_family(name))
    before = plain.conditioning(["cat"])
    plain.pipeline().load_lora_weights(str(tmp_path), weight_name=file.name)
    fuse_lora(ours.pipeline(), str(file))
    theirs, found = plain.conditioning(["cat"]), ours.conditioning(["cat"])
    for key, value in theirs.embeddings.items():
        assert torch.allclose(found.embeddings[key], value, atol=1e-5)
        assert (value - before.embeddings[key]).abs().max() > 1e-3
    assert torch.allclose(predicted(ours), predicted(plain), atol=1e-5)
    assert not any("lora" in part for part, _ in ours.text_encoder.named_parameters())


def test_a_file_whose_layers_fit_in_part_is_refused(tmp_path: Path) -> None:
    """diffusers goes on without the others."""
    denoiser = adapted("sd")
    export_lora(denoiser, tmp_path, denoiser.model, "someone/base")
    state = load_file(tmp_path / KOHYA_FILE)
    strange = {key.replace("mid_block", "mid_block_more"): value for key, value in state.items()}
    save_file(strange, tmp_path / "strange.safetensors")
    with pytest.raises(ValueError, match=r"does not fit its base model: of its 32 layers 24 can be put into a"):
        fuse_lora(tiny_family("sd"), str(tmp_path / "strange.safetensors"))


def test_pefts_files_of_a_unet_are_read(tmp_path: Path) -> None:
    """As peft's own ``save_pretrained`` writes them."""
    from peft import LoraConfig, get_peft_model

    plain = denoiser_of(tiny_family("sd"))
    wrapped = get_peft_model(
        plain.model, LoraConfig(r=2, lora_alpha=5, target_modules=["to_k"], init_lora_weights=False)
    )
    wrapped.save_pretrained(str(tmp_path))
    for named in (str(tmp_path), str(tmp_path / "adapter_model.safetensors")):
        read = denoiser_of(tiny_family("sd"))
        fuse_lora(read.pipeline(), named)
        assert torch.allclose(predicted(read), predicted(plain), atol=1e-5)


def test_a_lora_in_a_file_is_opened_with_the_base_that_is_named_with_it(
    family_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = adapted("sd")
    export_lora(denoiser, tmp_path / "lora", denoiser.model, str(family_folder("sd")))
    file = tmp_path / "mine.safetensors"
    file.write_bytes((tmp_path / "lora" / KOHYA_FILE).read_bytes())
    with pytest.raises(ValueError, match=r"--model: '.*mine.safetensors' holds a LoRA.*name it behind .*::BASE\)"):
        base_of(str(file), "--model")
    base = str(family_folder("sd"))
    assert base_of(f"{file}::{base}") == base and base_of(str(tmp_path / "lora" / KOHYA_FILE)) == base
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in (f"{file}::{base}", f"~/mine.safetensors::{base}", str(tmp_path / "lora" / LORA_FILE)):
        assert torch.allclose(predicted(open_denoiser(named)), predicted(denoiser), atol=1e-5)
    with_adapter = open_denoiser(f"{file}::{base}", fuse=False)
    off = predicted(with_adapter, AdapterOff(with_adapter.model))
    assert torch.equal(off, predicted(denoiser_of(tiny_family("sd"))))


def test_a_lora_of_a_lora_names_the_way_to_its_base(family_folder: Folder, tmp_path: Path) -> None:
    """Whatever folder a run was started from."""
    denoiser = adapted("sd")
    export_lora(denoiser, tmp_path / "lora", denoiser.model, str(family_folder("sd")))
    named = f"{tmp_path}/lora/../lora/{KOHYA_FILE}::{family_folder('sd')}"
    again = open_denoiser(named)
    add_lora(again, LoraSettings(rank=2), seed=0)
    with torch.no_grad():
        for parameter in trained_parameters(again.model):
            parameter.add_(0.1)
    export_lora(again, tmp_path / "second", again.model, named)
    assert base_of(str(tmp_path / "second")) == f"{tmp_path}/lora/{KOHYA_FILE}::{family_folder('sd')}"
    assert torch.allclose(predicted(open_denoiser(str(tmp_path / "second"))), predicted(again), atol=1e-5)
