"""What a list command has done so far, on disk, of one set of settings: rows of a file, or images per item."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from memsieve.filtering.data.decode import to_levels
from memsieve.filtering.files import write_json
from memsieve.inference.generate import GenerateSettings, generate
from memsieve.inference.progress import progress_bar

__all__ = ["ImageStore", "append_rows", "generate_kept", "refuse_other_settings"]


class ImageStore:
    """Images by item, one file each, written whole or not at all.

    Images are kept as 8-bit, and what ``save`` returns is that: a resumed run and one that was never stopped see the
    same pixels.

    Args:
        folder: emptied first unless ``resume`` is on.
        asked: what the images depend on, as JSON; a resumed run must ask the same.

    Raises:
        ValueError: the folder is of another run, or is no such folder.
    """

    def __init__(self, folder: Path, asked: dict[str, Any], resume: bool) -> None:
        self.folder = folder
        file = folder / "settings.json"
        if file.is_file() and resume:
            refuse_other_settings(json.loads(file.read_text(encoding="utf-8")), asked, folder)
            return
        if folder.exists():
            if not file.is_file() and any(folder.iterdir()):
                raise ValueError(f"--out: '{folder}' exists and holds no images of this command; name another --out")
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_json(file, asked)

    def load(self, name: str) -> Tensor | None:
        """Images [n, 3, H, W] in [-1, 1], or None where there are none yet."""
        file = self._file(name)
        return load_file(file)["images"].float() / 127.5 - 1 if file.is_file() else None

    def save(self, name: str, images: Tensor) -> Tensor:
        """Keep images [n, 3, H, W] in [-1, 1]; returns them as ``load`` will."""
        small = to_levels(images.clamp(-1, 1)).contiguous()
        file = self._file(name)
        temporary = file.with_suffix(f".{os.getpid()}")
        save_file({"images": small}, temporary)
        os.replace(temporary, file)
        return small.float() / 127.5 - 1

    def _file(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.safetensors"


def generate_kept(
    pipe: Any,
    prompts: Sequence[str],
    seeds_per_prompt: int,
    store: ImageStore,
    settings: GenerateSettings | None = None,
    *,
    progress: bool = True,
) -> Tensor:
    """As ``generate``, prompt by prompt through ``store``: what it holds is not drawn again."""
    settings = settings or GenerateSettings()
    missing = [i for i, prompt in enumerate(prompts) if store.load(f"{i}:{prompt}") is None]
    together = max(1, settings.batch // seeds_per_prompt)
    with progress_bar(progress) as bar:
        task = bar.add_task("generating", total=len(prompts), completed=len(prompts) - len(missing))
        for start in range(0, len(missing), together):
            part = missing[start : start + together]
            chosen = [prompts[i] for i in part]
            new = generate(pipe, chosen, seeds_per_prompt, settings, numbers=part, progress=False)
            for i, images in zip(part, new.split(seeds_per_prompt), strict=True):
                store.save(f"{i}:{prompts[i]}", images)
            bar.advance(task, len(part))
    drawn = [store.load(f"{i}:{prompt}") for i, prompt in enumerate(prompts)]
    return torch.cat([images for images in drawn if images is not None])


@contextmanager
def append_rows(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that appends one row as a line and flushes it."""
    with path.open("a", encoding="utf-8") as stream:

        def write(row: dict[str, Any]) -> None:
            stream.write(json.dumps(row, allow_nan=False) + "\n")
            stream.flush()

        yield write


def refuse_other_settings(before: dict[str, Any], asked: dict[str, Any], place: Path) -> None:
    """Refuse to go on at ``place`` with other settings than it was begun with.

    Raises:
        ValueError: names the settings that differ.
    """
    wanted = json.loads(json.dumps(asked))
    differing = [name for name in wanted if before.get(name) != wanted[name]]
    if differing:
        raise ValueError(
            f"--resume: '{place}' was begun with another {', '.join(differing)}; ask the same, or name another --out"
        )
