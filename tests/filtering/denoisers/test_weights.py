"""Folders with weights of one variant only are loaded; pickles never are, and the named command converts them."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.inference.generate import load_pipeline
from tests.filtering.denoisers.pickled import PARTS, only_bin, same_weights
from tests.tiny_models import tiny_family

Folder = Callable[[str], Path]


def only_variant(folder: Path, part: str, variant: str = "fp16") -> None:
    """Give the weights of a part the names that ``save_pretrained(variant=...)`` gives them."""
    for file in (folder / part).glob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))


@pytest.mark.parametrize("parts", [PARTS, ("vae",), pytest.param(("text_encoder",), marks=pytest.mark.slow)])
def test_a_folder_with_fp16_files_only_is_loaded(copied: Callable[[str], Path], parts: tuple[str, ...]) -> None:
    """All parts or some of them; by training, by the checks that measure, and by those that draw."""
    folder = copied("sd")
    for part in parts:
        only_variant(folder, part)
    (folder / parts[0] / "LICENSE").write_text("a file whose name has no dot")
    expected = tiny_family("sd")
    assert same_weights(open_denoiser(str(folder)).pipeline(), expected)
    drawn = load_pipeline(folder)
    assert same_weights(drawn, expected) and {getattr(drawn, part).dtype for part in PARTS} == {torch.float32}
    half = load_pipeline(folder, dtype=torch.float16)
    assert {getattr(half, part).dtype for part in PARTS} == {torch.float16}


def test_half_precision_files_and_several_variants(copied: Callable[[str], Path]) -> None:
    folder = copied("sdxl")
    pipe = tiny_family("sdxl").to(torch.float16)
    for part in ("unet", "text_encoder", "text_encoder_2", "vae"):
        shutil.rmtree(folder / part)
        getattr(pipe, part).save_pretrained(folder / part, variant="bf16" if part == "vae" else "fp16")
    only_variant(folder, "unet", "non_ema")  # beside fp16 files: not what is wanted
    shutil.copy(folder / "unet" / "diffusion_pytorch_model.fp16.non_ema.safetensors",
                folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")  # fmt: skip
    for loaded in (open_denoiser(str(folder)).pipeline(), load_pipeline(folder)):
        assert same_weights(loaded, pipe.to(torch.float32), ("unet", "vae", "text_encoder", "text_encoder_2"))


def conversion_in(message: str) -> str:
    """The Python code of the command that a refusal ends with."""
    words = shlex.split(message[message.index("python -c ") :])
    assert words[:2] == ["python", "-c"] and len(words) == 3
    return words[2]


@pytest.mark.parametrize("parts", [PARTS, ("unet",), pytest.param(("text_encoder",), marks=pytest.mark.slow)])
def test_pickles_are_refused_and_the_named_command_converts_them(
    copied: Callable[[str], Path], parts: tuple[str, ...]
) -> None:
    """Alone, or beside safetensors of other parts; the same for training, for measuring and for drawing."""
    folder, pipe = copied("sd"), tiny_family("sd")
    for part in parts:
        only_bin(folder, part, pipe)
    if parts == ("unet",):
        only_variant(folder, "vae")
    said = []
    for open_it, option in ((open_denoiser, "model.path"), (load_pipeline, "--model")):
        with pytest.raises(ValueError, match=rf"^{re.escape(option)}: '.*' has only \.bin \(pickle\) weights") as error:
            open_it(str(folder))  # type: ignore[operator]
        said.append(conversion_in(str(error.value)))
    assert said[0] == said[1]
    exec(compile(said[0], "the command", "exec"), {})  # what a person would run
    converted = Path(f"{folder}-safetensors")
    assert not list(converted.rglob("*.bin"))
    for loaded in (open_denoiser(str(converted)).pipeline(), load_pipeline(converted)):
        assert same_weights(loaded, pipe)


def test_a_pickle_is_never_opened(copied: Callable[[str], Path], tmp_path: Path) -> None:
    """A file that would leave a mark when it is unpickled leaves none."""
    mark = tmp_path / "mark"

    class Hostile:
        def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
            return (Path.touch, (mark,))

    folder = copied("sd")
    for file in (folder / "unet").glob("*.safetensors"):
        file.unlink()
    torch.save({"x": Hostile()}, folder / "unet" / "diffusion_pytorch_model.bin")
    for open_it in (open_denoiser, load_pipeline):
        with pytest.raises(ValueError, match="pickle"):
            open_it(str(folder))  # type: ignore[operator]
    assert not mark.exists()
