"""Parts of a pipeline folder, one by one: which are there, in which dtype, and what is said of those that are not."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from memsieve.filtering.denoisers.hub import read_index
from memsieve.filtering.denoisers.parts import Dtypes, load_part, load_parts, own_scheduler, scheduler_config
from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.inference.generate import load_pipeline

Copy = Callable[[str], Path]
Folder = Callable[[str], Path]
DTYPES = Dtypes(torch.float32, torch.float16, torch.bfloat16)


def test_each_part_has_the_dtype_of_its_kind() -> None:
    assert [DTYPES.of(name) for name in ("unet", "transformer")] == [torch.float32] * 2
    assert [DTYPES.of(name) for name in ("text_encoder", "text_encoder_3")] == [torch.bfloat16] * 2
    assert DTYPES.of("vae") == torch.float16


def test_parts_are_loaded_frozen_and_an_optional_one_may_be_absent(family_folder: Folder) -> None:
    folder = str(family_folder("sd"))
    kinds: dict[str, Any] = {"vae": AutoencoderKL, "text_encoder": CLIPTextModel, "tokenizer": CLIPTokenizer}
    kinds["text_encoder_3"] = T5EncoderModel
    index = read_index(Path(folder))
    for named in ({}, {"text_encoder_3": [None, None]}, {"text_encoder_3": None}):
        found = load_parts(kinds, ("text_encoder_3",), folder, index | named, DTYPES)
        assert found.keys() == kinds.keys() and found["text_encoder_3"] is None
    assert found["vae"].dtype == torch.float16 and found["text_encoder"].dtype == torch.bfloat16
    for part in (found["vae"], found["text_encoder"]):
        assert not part.training and not any(parameter.requires_grad for parameter in part.parameters())
    with pytest.raises(ValueError, match=r"--model: '.*' has no text_encoder_3/ folder; name a complete diffusers pip"):
        load_parts(kinds, (), folder, index, DTYPES, "--model")
    named = {"text_encoder_3": ["transformers", "T5EncoderModel"]}
    with pytest.raises(ValueError, match="has no text_encoder_3/ folder"):
        load_parts(kinds, ("text_encoder_3",), folder, index | named, DTYPES)


def test_a_folder_without_one_of_its_parts_is_refused(copied: Copy) -> None:
    broken = copied("sdxl")
    shutil.rmtree(broken / "text_encoder_2")
    with pytest.raises(ValueError, match="has no text_encoder_2/ folder"):
        open_denoiser(str(broken))


def test_a_scheduler_that_is_not_there_or_no_config_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.path: '.*' has no scheduler/ folder; name a complete diffusers"):
        scheduler_config(str(tmp_path))
    file = tmp_path / "scheduler" / "scheduler_config.json"
    file.parent.mkdir()
    file.write_text("{")
    with pytest.raises(ValueError, match=r"--model: '.*scheduler_config\.json' is not JSON"):
        scheduler_config(str(tmp_path), "--model")
    file.write_text("[1]")
    with pytest.raises(ValueError, match=r"'.*scheduler_config\.json' is no scheduler's config"):
        scheduler_config(str(tmp_path))
    DDIMScheduler(beta_end=0.03).save_pretrained(file.parent)
    assert scheduler_config(str(tmp_path))["beta_end"] == 0.03


def test_the_own_scheduler_is_of_the_class_that_its_config_names() -> None:
    config = {"_class_name": "DDIMScheduler", "beta_end": 0.03, "prediction_type": "epsilon"}
    plain, other = own_scheduler(config, None), own_scheduler(config, "v_prediction")
    assert isinstance(plain, DDIMScheduler) and plain.config.beta_end == 0.03
    assert (plain.config.prediction_type, other.config.prediction_type) == ("epsilon", "v_prediction")
    flow = own_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "flow")
    assert isinstance(flow, FlowMatchEulerDiscreteScheduler) and "prediction_type" not in flow.config
    for name in ("SomebodysScheduler", "AutoencoderKL", "utils", None):
        assert own_scheduler({"_class_name": name}, None) is None, name


def test_a_scheduler_that_diffusers_lacks_is_replaced_by_plain_ddpm(copied: Copy, tmp_path: Path) -> None:
    """Its betas are what counts, in training and in the export."""
    folder = copied("sd")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "SomebodysScheduler"}))
    denoiser = open_denoiser(str(folder))
    denoiser.export(tmp_path / "out", denoiser.model)
    exported = scheduler_config(str(tmp_path / "out"))
    assert exported["_class_name"] == "DDPMScheduler" and exported["beta_end"] == 0.012
    assert isinstance(denoiser.noise_scheduler, DDPMScheduler)


def test_damaged_and_empty_parts_are_one_sentence(copied: Copy) -> None:
    folder = copied("sd")
    (file,) = (folder / "vae").glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    for open_it in (open_denoiser, load_pipeline):
        with pytest.raises(ValueError, match=r"cannot .*load.*damaged or incomplete: copy or download"):
            open_it(str(folder))  # type: ignore[operator]
    file.unlink()
    for open_it in (open_denoiser, load_pipeline):
        with pytest.raises(ValueError, match=r"vae") as error:
            open_it(str(folder))  # type: ignore[operator]
        assert "name a local diffusers" not in str(error.value).lower()
    file.write_bytes(whole)
    (folder / "scheduler" / "scheduler_config.json").write_text("{")
    for open_it in (open_denoiser, load_pipeline):
        with pytest.raises(ValueError):
            open_it(str(folder))  # type: ignore[operator]


@pytest.mark.skipif(
    importlib.util.find_spec("sentencepiece") is not None, reason="shows what is said without sentencepiece"
)
def test_a_t5_tokenizer_in_its_own_format_names_the_package_that_it_needs(tmp_path: Path) -> None:
    """transformers falls back to another library there, and would ask for that."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "spiece.model").write_bytes(b"\n\x0b\n\x05<unk>")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    with pytest.raises(
        ValueError, match=r"the tokenizer of '.*' needs a package that is not installed.*pip install .*\[t5\]'"
    ):
        load_part(T5Tokenizer, str(tmp_path), "tokenizer", Dtypes())
