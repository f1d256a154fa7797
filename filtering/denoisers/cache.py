"""Encoded images and captions on disk, so that a run encodes each once and its encoders can leave the device.

Images are known by what the VAE sees, captions by their text: another resolution, crop or wording is another entry, and
a hit is what encoding would have given. Samples keep their names and places; the filter never notices.

A cache folder holds ``manifest.json`` (which encoders) and shards of bounded size, each written whole under a name of
its own and then renamed: ranks and runs may fill one cache together, and what was written stays after a stop.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from memsieve.filtering.settings import SettingsError

__all__ = ["CacheFolder", "Kind", "caption_key", "image_key"]

Kind = Literal["image", "caption"]
SHARD_BYTES: Final = 256 * 2**20
_VERSION: Final = 1
_PADDING: Final = "padding"


def image_key(pixels: torch.Tensor) -> str:
    """Identity of one image [3, H, W] in [-1, 1] as the VAE sees it; rows of padding share one."""
    if not bool(pixels.any()):  # no image of 8 bits a channel is exactly zero anywhere
        return f"{_PADDING} {tuple(pixels.shape)}"
    levels = ((pixels + 1.0) * 127.5).round().to(torch.uint8).contiguous()
    return hashlib.blake2b(levels.numpy().tobytes(), digest_size=16).hexdigest() + f" {tuple(pixels.shape)}"


def caption_key(caption: str) -> str:
    """Identity of a caption."""
    return hashlib.blake2b(caption.encode(), digest_size=16).hexdigest()


class CacheFolder:
    """The entries of a cache folder, read where they lie; new ones are collected and written in shards.

    Args:
        folder: made where it is not there.
        made_with: what decides what an entry holds: hashes of the encoders, in values that JSON can hold.
        name: the option that names the folder, for messages.

    Raises:
        SettingsError: the folder was filled by other encoders, or is no cache.
    """

    def __init__(self, folder: Path, made_with: dict[str, Any], name: str = "train.cache") -> None:
        self.folder, self.made_with = folder, made_with
        self._open_manifest(name)
        self._places: dict[Kind, dict[str, tuple[Path, int]]] = {"image": {}, "caption": {}}
        self._handles: dict[Path, Any] = {}
        self._new: dict[Kind, dict[str, tuple[str, dict[str, torch.Tensor]]]] = {"image": {}, "caption": {}}
        self._bytes: dict[Kind, int] = {"image": 0, "caption": 0}
        self.refresh()

    def _open_manifest(self, name: str) -> None:
        path = self.folder / "manifest.json"
        wanted = {"version": _VERSION, **self.made_with}
        if not path.is_file():
            if self.folder.is_dir() and any(self.folder.glob("*.safetensors")):
                raise SettingsError(f"{name}: '{self.folder}' has shards and no manifest.json; name an empty folder")
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(path, json.dumps(wanted, indent=1, sort_keys=True))
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SettingsError(f"{name}: '{path}' is not JSON ({error}); name another folder") from error
        differing = [part for part in sorted({*found, *wanted}) if found.get(part) != wanted.get(part)]
        if differing:
            raise SettingsError(
                f"{name}: '{self.folder}' was filled with another {', '.join(differing)} than this run's; name another "
                "folder, or delete this one"
            )

    def refresh(self) -> None:
        """Learn of shards that were written since, by this process or others."""
        known = {path for places in self._places.values() for path, _ in places.values()}
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in known:
                continue
            kind: Kind = "image" if path.name.startswith("image-") else "caption"
            with safe_open(path, framework="pt") as shard:
                keys = json.loads(shard.metadata()["keys"])
            for row, key in enumerate(keys):
                self._places[kind].setdefault(key, (path, row))

    def has(self, kind: Kind, key: str) -> bool:
        """Whether the entry is on disk, or waits to be written."""
        return key in self._places[kind] or key in self._new[kind]

    def count(self, kind: Kind) -> int:
        """Entries on disk."""
        return len(self._places[kind])

    def get(self, kind: Kind, key: str) -> dict[str, torch.Tensor] | None:
        """The tensors of an entry, without a batch axis; None where it is not there."""
        if key in self._new[kind]:
            return self._new[kind][key][1]
        if key not in self._places[kind]:
            return None
        path, row = self._places[kind][key]
        if path not in self._handles:
            self._handles[path] = safe_open(path, framework="pt")  # mapped, not read
        shard = self._handles[path]
        return {name: shard.get_slice(name)[row : row + 1][0] for name in shard.keys()}  # noqa: SIM118

    def add(self, kind: Kind, keys: Sequence[str], samples: Sequence[str], tensors: dict[str, torch.Tensor]) -> None:
        """Collect entries: row i of each of ``tensors`` [B, ...] under ``keys[i]``, named after ``samples[i]``."""
        for i, (key, sample) in enumerate(zip(keys, samples, strict=True)):
            if not self.has(kind, key):
                entry = {name: value[i].detach().cpu().clone() for name, value in tensors.items()}
                self._new[kind][key] = (sample, entry)
                self._bytes[kind] += sum(value.nbytes for value in entry.values())
        if self._bytes[kind] >= SHARD_BYTES:
            self.write(kind)

    def write(self, kind: Kind | None = None) -> None:
        """Write what was collected, of one kind or of both."""
        for one in (kind,) if kind is not None else ("image", "caption"):
            new, self._new[one], self._bytes[one] = self._new[one], {}, 0
            if not new:
                continue
            shards: dict[tuple[torch.Size, ...], list[str]] = {}  # a shard's entries are stacked, so of one shape
            for key, (_, entry) in new.items():
                shards.setdefault(tuple(value.shape for value in entry.values()), []).append(key)
            for keys in shards.values():
                self._write_shard(one, keys, new)

    def _write_shard(self, kind: Kind, keys: list[str], new: dict[str, tuple[str, dict[str, torch.Tensor]]]) -> None:
        entries = [new[key][1] for key in keys]
        stacked = {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}
        about = {"keys": json.dumps(keys), "samples": json.dumps([new[key][0] for key in keys])}
        path = self.folder / f"{kind}-{uuid.uuid4().hex}.safetensors"
        temporary = path.with_suffix(".unfinished")
        save_file(stacked, temporary, metadata=about)
        os.replace(temporary, path)
        for row, key in enumerate(keys):
            self._places[kind].setdefault(key, (path, row))

    # -- which data was read through -------------------------------------------------------------------------------

    def is_complete(self, data: str) -> bool:
        """Whether all of ``data`` (a digest of what it is) was encoded once."""
        return (self.folder / f"complete-{data}").is_file()

    def mark_complete(self, data: str) -> None:
        """All of ``data`` is on disk."""
        _write(self.folder / f"complete-{data}", "")


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
