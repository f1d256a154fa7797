"""What the checking commands say, and how they end, where prompts, images or models cannot be read."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
import webdataset
from PIL import Image
from typer.testing import CliRunner

from memsieve.cli import app, main
from tests.tiny_models import tiny_family

ORDINARY = ["red dog", "a hat", "big tree", "old fish"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sd"
    tiny_family("sd").save_pretrained(folder)
    return folder


@pytest.fixture
def ordinary(tmp_path: Path) -> Path:
    """A UTF-16 list with one line that is empty."""
    file = tmp_path / "ordinary.txt"
    file.write_bytes("\n".join([*ORDINARY[:2], "", *ORDINARY[2:]]).encode("utf-16"))
    return file


def run(*words: object, message: str = "") -> str:
    """The output of a command; with a ``message``, of one that ends with it as its error."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if message:
        assert isinstance(result.exception, ValueError) and message in str(result.exception), result.exception
    else:
        assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    return " ".join(result.output.split())


def shards(folder: Path, samples: list[dict[str, bytes]]) -> Path:
    folder.mkdir(parents=True)
    with webdataset.TarWriter(str(folder / "00000.tar")) as tar:
        for i, sample in enumerate(samples):
            stream = io.BytesIO()
            Image.effect_noise((16, 16), 60 + i).convert("RGB").save(stream, "PNG")
            tar.write({"__key__": f"k{i}", "png": stream.getvalue(), **sample})
    return folder


def detect(model: Path, prompts: Path, ordinary: Path, out: Path) -> list[object]:
    return ["detect", "--model", model, "--prompts", prompts, "--ordinary", ordinary, "--out", out,
            "--false-positive-rate", 0.25, "--schedule-steps", 4, "--device", "cpu"]  # fmt: skip


def test_detect_ends_with_an_error_where_no_caption_can_be_read(model: Path, ordinary: Path, tmp_path: Path) -> None:
    """Never "0 flagged" and exit code 0; with captions in the json that are known, they are scored."""
    none = shards(tmp_path / "none", [{"json": b'{"alt": "a cat"}'}, {"json": b"{}"}])
    message = "holds no usable prompt (2 lines read; the first: sample 1 (k0): the sample has no caption"
    run(*detect(model, none, ordinary, tmp_path / "a"), message=message)
    some = shards(tmp_path / "some", [{"json": b'{"caption": "a cat"}'}, {"json": b'{"alt": "x"}'}])
    text = run(*detect(model, some, ordinary, tmp_path / "b"))
    assert "2 read = 1 scored + 1 failed" in text and "sample 2 (k1): the sample has no caption" in text
    assert "--ordinary: 1 of 5 lines could not be used" in text and "line 3: the prompt is empty" in text
    assert json.loads((tmp_path / "b" / "summary.json").read_text())["ordinary_failed"] == 1


def test_the_exit_code_and_the_one_sentence(
    model: Path, ordinary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    none = shards(tmp_path / "none", [{"json": b"{}"}])
    words = [str(word) for word in detect(model, none, ordinary, tmp_path / "a")]
    monkeypatch.setattr("sys.argv", ["memsieve", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and "error: --prompts: " in said.err and "flagged" not in said.out


def test_detect_ends_with_an_error_where_nothing_could_be_scored(model: Path, ordinary: Path, tmp_path: Path) -> None:
    pipe = tiny_family("sd")
    (token,) = pipe.tokenizer("z", add_special_tokens=False).input_ids
    pipe.text_encoder.get_input_embeddings().weight.data[token] = float("nan")
    pipe.save_pretrained(tmp_path / "broken")
    prompts = tmp_path / "p.csv"
    prompts.write_text("n;Caption\n1;z\n2;z z\n")
    message = "none of the 2 prompts could be scored; the first: line 2"
    run(*detect(tmp_path / "broken", prompts, ordinary, tmp_path / "a"), message=message)
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["failed"] == 2, "the results are there to look at"


def test_a_published_list_is_evaluated_and_what_is_not_read_is_counted(
    model: Path, ordinary: Path, tmp_path: Path
) -> None:
    memorized = tmp_path / "list.csv"
    memorized.write_text(
        "Index;Caption;URL\n0;Living in the Light, a cat;http://x\n1;;\n2;Mothers influence;http://y\n"
    )
    text = run(
        "evaluate-detector", "--model", model, "--memorized", memorized, "--ordinary", ordinary, "--steps", "1",
        "--images-per-prompt", "1", "--schedule-steps", 4, "--device", "cpu",
    )  # fmt: skip
    assert "2 memorised prompts in 2 groups, 4 ordinary" in text
    assert "--memorized: 1 of 3 lines could not be used" in text and "--ordinary: 1 of 5 lines" in text


def test_minimize_says_what_it_could_not_read(model: Path, ordinary: Path, tmp_path: Path) -> None:
    text = run(
        "minimize", "--model", model, "--prompt", "a cat", "--ordinary", ordinary, "--out", tmp_path / "m",
        "--images-per-prompt", 1, "--iterations", 1, "--schedule-steps", 4, "--no-generate", "--device", "cpu",
    )  # fmt: skip
    assert "--ordinary: 1 of 5 lines could not be used" in text


def test_verify_reads_prompts_models_and_images_alike(model: Path, tmp_path: Path) -> None:
    """UTF-16 prompts; fp16 files; pickles refused in one sentence; and no exit code 0 where nothing was compared."""
    index = tmp_path / "index"
    train = shards(tmp_path / "train", [{"txt": b"a cat"}, {"txt": b"a dog"}])
    run("index", "--data", train, "--out", index)
    prompts = tmp_path / "p.txt"
    prompts.write_bytes("a cat\n\n".encode("utf-16"))
    half = Path(shutil.copytree(model, tmp_path / "half"))
    weights = half / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    words = ["verify", "--index", index, "--prompts", prompts, "--steps", 2, "--device", "cpu"]
    text = run(*words, "--model", half, "--out", tmp_path / "v")
    assert "1 read = 1 compared" in text and "--prompts: 1 of 2 lines could not be used" in text
    pickled = Path(shutil.copytree(model, tmp_path / "pickled"))
    (pickled / "unet" / weights.name).unlink()
    torch.save({}, pickled / "unet" / "diffusion_pytorch_model.bin")
    refused = "has only .bin (pickle) weights in unet/"
    run(*words, "--model", pickled, "--out", tmp_path / "w", message=refused)
    run(*detect(pickled, prompts, prompts, tmp_path / "d"), message=refused)
    run("explain", "--model", pickled, "--prompt", "a cat", message=refused)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.png").write_bytes(b"nothing")
    run("verify", "--index", index, "--images", tmp_path / "images", "--out", tmp_path / "x",
        message="none of the 1 images could be compared")  # fmt: skip
