"""A folder, a hub id in the cache, and what is said where there is no model to be had."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RemoteEntryNotFoundError, RepositoryNotFoundError

from memsieve.filtering.denoisers.hub import pipeline_folder
from memsieve.filtering.denoisers.registry import FAMILIES, open_denoiser
from tests.filtering.denoisers.conftest import COMMIT

Folder = Callable[[str], Path]


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3"])
def test_a_hub_id_in_the_cache_is_the_folder(name: str, family_folder: Folder, hub: Any) -> None:
    hub("someone/tiny", family_folder(name))
    cached, local = open_denoiser("someone/tiny"), open_denoiser(str(family_folder(name)))
    assert type(cached) is type(local)
    assert all(torch.equal(a, b) for a, b in zip(cached.model.parameters(), local.model.parameters(), strict=True))
    one, two = (d.conditioning(["cat dog"]).encoder_hidden_states for d in (cached, local))
    assert torch.equal(one, two)


def list_tree(hub_folder: Path, name: str) -> None:
    """The repository's list of files, as an online call leaves it beside the snapshot: diffusers then picks files."""
    home = hub_folder / f"models--{name.replace('/', '--')}"
    snapshot = home / "snapshots" / COMMIT
    files = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()]
    listed = {path: {"size": (snapshot / path).stat().st_size, "blob_id": "0" * 40} for path in files}
    (home / "trees").mkdir()
    (home / "trees" / f"{COMMIT}.json").write_text(json.dumps({"format_version": 1, "files": listed}))


@pytest.mark.parametrize("ending", ["fp16.safetensors", "bin"])
def test_a_hub_id_with_fp16_files_or_pickles_only(ending: str, family_folder: Folder, hub: Any, tmp_path: Path) -> None:
    """The variant that there is comes without being asked for; pickles are refused as such, not as "not reached"."""
    folder = tmp_path / "m"
    shutil.copytree(family_folder("sd"), folder)
    for part in ("unet", "vae", "text_encoder"):
        for file in (folder / part).glob("*.safetensors"):
            file.rename(file.with_name(f"{file.stem}.{ending}"))
    hub("someone/half", folder)
    list_tree(tmp_path / "hub", "someone/half")
    if ending == "bin":
        with pytest.raises(ValueError, match=r"not every part of 'someone/half' has .safetensors weights.*--local-dir"):
            open_denoiser("someone/half")
        return
    cached, local = open_denoiser("someone/half"), open_denoiser(str(family_folder("sd")))
    assert all(torch.equal(a, b) for a, b in zip(cached.model.parameters(), local.model.parameters(), strict=True))


def test_a_model_that_is_not_in_the_cache(hub: Any) -> None:
    with pytest.raises(ValueError, match=r"model\.path: 'someone/else' is neither a local folder nor, in whole, in"):
        open_denoiser("someone/else")


def _response(status: int) -> httpx.Response:
    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/x/y"))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (GatedRepoError("403", response=_response(403)), r"'x/y' is gated: accept its licence at .*hf auth login"),
        (
            RepositoryNotFoundError("404", response=_response(404)),
            "there is no model 'x/y' on the hub, or it is private",
        ),
        (RemoteEntryNotFoundError("404", response=_response(404)), r"'x/y' is no diffusers pipeline"),
        (HfHubHTTPError("500 Server Error", response=_response(500)), r"the hub cannot be reached \(500 Server Error"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception, sentence: str) -> None:
    """The hub itself cannot be asked here: its client raises what it raises for these answers."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(ValueError, match=sentence):
        open_denoiser("x/y")


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'.*' holds no diffusers pipeline \(no model_index.json\)"):
        open_denoiser(str(tmp_path))
    with pytest.raises(ValueError, match="holds no diffusers pipeline"):
        open_denoiser("nowhere")
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        open_denoiser(str(tmp_path))


def test_the_docs_show_the_code_as_it_is() -> None:
    """Every block of docs/adding-a-model.md stands in the file that the line above it names."""
    root = Path(__file__).parents[3]
    page = (root / "docs" / "adding-a-model.md").read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- (\S+\.py) -->\n```python\n(.*?)\n```", page, re.DOTALL)
    assert len(blocks) == page.count("```python") >= 6
    for file, code in blocks:
        assert code in (root / file).read_text(encoding="utf-8"), f"{file} has changed"
    assert all(f"`{name}`" in page for name in FAMILIES)


def test_a_missing_folder_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like a hub id and lies in a folder that is there is not asked for on the hub."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("memsieve.filtering.denoisers.hub._from_hub", lambda *_: pytest.fail("asked"))
    with pytest.raises(ValueError, match="--model: 'runs/mine' is not there, though its folder 'runs' is"):
        pipeline_folder("runs/mine", "--model")


def test_a_hub_that_cannot_be_reached_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def no_answer(self: object, name: str, **options: object) -> None:
        asked.append(name)
        raise RuntimeError("no route")  # clients differ in what they raise

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", no_answer)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: pytest.fail("asked again"))
    with pytest.raises(ValueError, match="the hub cannot be reached .*no route"):
        pipeline_folder("someone/no-such-model")
    assert asked == ["someone/no-such-model"]
