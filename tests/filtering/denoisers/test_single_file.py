"""Checkpoints in one file: opened as the pipeline that they were made of, with the configs of a folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from memsieve.filtering.denoisers.fingerprint import model_hashes
from memsieve.filtering.denoisers.lora_files import KOHYA_FILE, base_of, export_lora
from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.inference.generate import load_pipeline
from tests.filtering.denoisers.ldm import save_ldm
from tests.filtering.denoisers.test_lora import adapted, predicted
from tests.tiny_models import RECENT, recent_slow, tiny_family

Folder = Callable[[str], Path]


def two_widths() -> Any:
    """SDXL whose text encoders differ in width, as the real ones do: diffusers tells them apart by it."""
    pipe = tiny_family("sdxl")
    for name, kind, width in (("text_encoder", CLIPTextModel, 8), ("text_encoder_2", CLIPTextModelWithProjection, 24)):
        config = {**pipe.text_encoder.config.to_dict(), "hidden_size": width, "projection_dim": 16}
        pipe.register_modules(**{name: kind(CLIPTextConfig(**config)).eval()})
    return pipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """The single file of a family, and the folder of the same pipeline."""
    found: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in found:
            place = tmp_path_factory.mktemp(name)
            pipe = two_widths() if name == "sdxl" else tiny_family(name)
            pipe.save_pretrained(place / "folder")
            found[name] = (save_ldm(pipe, place / "model.safetensors"), place / "folder")
        return found[name]

    return make


Made = Callable[[str], tuple[Path, Path]]


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_a_checkpoint_is_the_pipeline_that_it_was_made_of(name: str, made: Made) -> None:
    file, folder = made(name)
    dtypes = {"model_dtype": torch.bfloat16, "text_dtype": torch.float16}
    opened, plain = (open_denoiser(named, **dtypes) for named in (f"{file}::{folder}", str(folder)))
    assert model_hashes(opened) == model_hashes(plain)


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_it_draws_as_its_pipeline(name: str, made: Made) -> None:
    file, folder = made(name)
    drawn = []
    for named in (f"{file}::{folder}", str(folder)):
        pipe = load_pipeline(named)
        pipe.set_progress_bar_config(disable=True)
        options: dict[str, Any] = {"num_inference_steps": 2, "output_type": "pt", "height": 16, "width": 16}
        drawn.append(pipe("cat", generator=torch.Generator().manual_seed(0), **options).images)
        assert type(pipe.scheduler).__name__ == ("DDIMScheduler" if name == "sd" else "EulerDiscreteScheduler")
    assert torch.equal(*drawn)


@pytest.mark.parametrize("name", recent_slow(["flux", "sd3", *(name for name in RECENT)]))
def test_the_network_alone_takes_the_other_parts_from_the_folder(
    name: str, family_folder: Folder, tmp_path: Path
) -> None:
    """As Flux is handed on."""
    pipe = tiny_family(name)
    file = tmp_path / "network.safetensors"
    save_file({part: value + 1 for part, value in pipe.transformer.state_dict().items()}, file)
    opened = model_hashes(open_denoiser(f"{file}::{family_folder(name)}"))
    plain = model_hashes(open_denoiser(str(family_folder(name))))
    assert [part for part in plain if plain[part] != opened[part]] == ["transformer"]
    if name == "flux":
        with pytest.raises(ValueError, match=r"is no checkpoint that diffusers can tell.*behind it: .*::FOLDER"):
            open_denoiser(str(file))


def test_the_configs_come_from_the_hub_or_its_cache(made: Made, hub: Any, tmp_path: Path) -> None:
    """Of the model that diffusers takes it for; a checkpoint without a VAE takes it from there too."""
    file, folder = made("sd")
    command = r"`hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --include '\*\.json' .*`\), or name a folder"
    with pytest.raises(ValueError, match=rf"model\.path: '{file}' needs the configs and tokenizers.*{command}"):
        open_denoiser(str(file))
    configs = tmp_path / "configs"
    shutil.copytree(folder, configs, ignore=shutil.ignore_patterns("*.safetensors"))
    hub("stable-diffusion-v1-5/stable-diffusion-v1-5", configs)
    plain = model_hashes(open_denoiser(str(folder)))
    assert model_hashes(open_denoiser(str(file))) == plain
    bare = tmp_path / "bare.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "first_stage" not in name}, bare)
    with pytest.raises(ValueError, match=r"bare\.safetensors' holds no vae, so that it is read from .*no weights"):
        open_denoiser(str(bare))
    hub("someone/whole", folder)
    assert model_hashes(open_denoiser(f"{bare}::someone/whole")) == plain
    with pytest.raises(ValueError, match="'elsewhere' holds no diffusers pipeline"):
        open_denoiser(f"{file}::elsewhere")


def test_what_a_checkpoint_says_of_its_noise(made: Made, tmp_path: Path) -> None:
    _, folder = made("sdxl")
    marks = {name: torch.zeros(0) for name in ("v_pred", "ztsnr")}
    file = save_ldm(two_widths(), tmp_path / "v.safetensors", **marks)
    opened = open_denoiser(f"{file}::{folder}")
    assert opened.prediction_type == "v_prediction" and float(opened.noise_scheduler.alphas_cumprod[-1]) < 1e-6
    assert open_denoiser(f"{file}::{folder}", "epsilon").prediction_type == "epsilon"
    edm = save_ldm(two_widths(), tmp_path / "edm.safetensors", edm_mean=torch.zeros(4))
    with pytest.raises(ValueError, match=r"says by 'edm_mean' that .*EDM preconditioning"):
        open_denoiser(f"{edm}::{folder}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("strange", r"the vae of '.*' does not fit the configs in '.*': Some weights .*not used .* quant_conv\.bias"),
        ("missing", r"the vae of '.*' does not fit the configs in '.*': tensors are missing in the file"),
        ("scaled", r"'.*' is quantised, with scales beside its weights .*16-bit version"),
    ],
)
def test_what_diffusers_would_leave_out_is_refused(change: str, sentence: str, made: Made, tmp_path: Path) -> None:
    """It goes on with a warning, or with none."""
    file, folder = made("sd")
    state = load_file(file)
    if change == "strange":
        folder = shutil.copytree(folder, tmp_path / "folder")
        config = json.loads((folder / "vae" / "config.json").read_text())
        (folder / "vae" / "config.json").write_text(json.dumps(config | {"use_quant_conv": False}))
    if change == "missing":
        del state["first_stage_model.decoder.norm_out.weight"]
    if change == "scaled":
        state["model.diffusion_model.out.2.scale_weight"] = torch.ones(1)
    save_file(state, tmp_path / "changed.safetensors")
    with pytest.raises(ValueError, match=sentence):
        open_denoiser(f"{tmp_path / 'changed.safetensors'}::{folder}")


def test_other_models_configs_are_refused(made: Made, family_folder: Folder, tmp_path: Path) -> None:
    file, _ = made("sd")
    with pytest.raises(ValueError, match=r"the unet of '.*' does not fit the configs in '.*sdxl'.*::FOLDER"):
        open_denoiser(f"{file}::{family_folder('sdxl')}")
    with pytest.raises(ValueError, match=r"diffusers reads no single file of a PixArtTransformer2DModel"):
        open_denoiser(f"{file}::{family_folder('pixart')}")
    named = shutil.copytree(made("sd")[1], tmp_path / "named")
    index = json.loads((named / "model_index.json").read_text())
    (named / "model_index.json").write_text(json.dumps(index | {"text_encoder": ["os", "system"]}))
    with pytest.raises(ValueError, match=r"the text_encoder of '.*named' is a \['os', 'system'\], where this family"):
        open_denoiser(f"{file}::{named}")


def test_a_file_cut_off_or_pickled_is_refused(made: Made, tmp_path: Path) -> None:
    file, folder = made("sd")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.safetensors' cannot be read as safetensors"):
        open_denoiser(f"{tmp_path / 'cut.safetensors'}::{folder}")
    (tmp_path / "model.ckpt").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"model\.ckpt' is a pickle \(\.ckpt\), which can run code.*weights_only=True"):
        open_denoiser(f"{tmp_path / 'model.ckpt'}::{folder}")


def test_a_lora_is_opened_in_a_checkpoint(made: Made, tmp_path: Path) -> None:
    file, folder = made("sd")
    base = f"{file}::{folder}"
    denoiser = adapted("sd")
    export_lora(denoiser, tmp_path, denoiser.model, base)
    assert base_of(str(tmp_path)) == base
    for named in (str(tmp_path), f"{tmp_path / KOHYA_FILE}::{base}"):
        assert torch.allclose(predicted(open_denoiser(named)), predicted(denoiser), atol=1e-5)
