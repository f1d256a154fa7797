"""A cache folder: what an entry is known by, what is on disk, and folders that it must not be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memsieve.filtering.denoisers import cache as cache_module
from memsieve.filtering.denoisers.cache import CacheFolder, caption_key, image_key
from memsieve.filtering.settings import SettingsError

MADE_WITH = {"vae": "v", "text_encoder": "t"}


def entries(*values: float) -> dict[str, torch.Tensor]:
    return {"mean": torch.tensor(values)[:, None], "std": torch.ones(len(values), 1)}


def test_an_image_is_known_by_its_levels_and_its_shape() -> None:
    pixels = torch.linspace(-1, 1, 48).reshape(3, 4, 4)
    levels = ((pixels + 1) * 127.5).round() / 127.5 - 1
    assert image_key(pixels) == image_key(levels) == image_key(levels + 1e-4)
    assert image_key(pixels) != image_key(pixels.reshape(3, 2, 8)) and image_key(pixels) != image_key(-pixels)
    assert image_key(torch.zeros(3, 4, 4)) == "padding (3, 4, 4)"
    assert caption_key("a cat") != caption_key("a dog")


def test_entries_are_there_at_once_and_in_other_processes_once_written(tmp_path: Path) -> None:
    cache, other = CacheFolder(tmp_path, MADE_WITH), CacheFolder(tmp_path, MADE_WITH)
    cache.add("image", ["a", "b"], ["0.tar/a", "0.tar/b"], entries(1.0, 2.0))
    cache.add("image", ["b"], ["1.tar/b"], entries(9.0))
    found = cache.get("image", "b")
    assert found is not None and found["mean"].tolist() == [2.0], "the first one stays"
    assert cache.count("image") == 0 and not list(tmp_path.glob("*.safetensors"))
    cache.write()
    other.refresh()
    found = other.get("image", "b")
    assert found is not None and found["mean"].tolist() == [2.0]
    assert other.count("image") == 2 and other.get("caption", "b") is None and not other.has("caption", "a")
    cache.write()
    assert len(list(tmp_path.glob("*.safetensors"))) == 1, "nothing new, no shard"


def test_a_shard_is_written_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "SHARD_BYTES", 16)
    cache = CacheFolder(tmp_path, MADE_WITH)
    cache.add("image", ["a"], ["a"], entries(1.0))
    assert cache.count("image") == 0
    cache.add("image", ["b"], ["b"], entries(2.0))
    assert cache.count("image") == 2


def test_what_was_read_through_is_marked(tmp_path: Path) -> None:
    CacheFolder(tmp_path, MADE_WITH).mark_complete("data")
    again = CacheFolder(tmp_path, MADE_WITH)
    assert again.is_complete("data") and not again.is_complete("other")


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    CacheFolder(tmp_path / "one", MADE_WITH)
    with pytest.raises(SettingsError, match="train.cache: '.*' was filled with another vae than this run's"):
        CacheFolder(tmp_path / "one", MADE_WITH | {"vae": "w"})
    (tmp_path / "one" / "manifest.json").write_text("{")
    with pytest.raises(SettingsError, match="is not JSON"):
        CacheFolder(tmp_path / "one", MADE_WITH)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "image-0.safetensors").write_bytes(b"")
    with pytest.raises(SettingsError, match="has shards and no manifest.json"):
        CacheFolder(tmp_path / "two", MADE_WITH)
