"""What a list command has done so far, on disk: images per item, or measurements per prompt, of one set of settings."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from memsieve.filtering.files import write_json
from memsieve.inference.detect.detect import progress_bar
from memsieve.inference.detect.detectors import Measurement
from memsieve.inference.detect.run import append_rows, read_json_lines
from memsieve.inference.generate import generate

__all__ = ["ImageStore", "generate_kept", "measurements_on_disk"]


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
        wanted = json.loads(json.dumps(asked))
        if file.is_file() and resume:
            _same(json.loads(file.read_text(encoding="utf-8")), wanted, folder)
            return
        if folder.exists():
            if not file.is_file() and any(folder.iterdir()):
                raise ValueError(f"--out: '{folder}' exists and holds no images of this command; name another --out")
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_json(file, wanted)

    def load(self, name: str) -> Tensor | None:
        """Images [n, 3, H, W] in [-1, 1], or None where there are none yet."""
        file = self._file(name)
        return load_file(file)["images"].float() / 127.5 - 1 if file.is_file() else None

    def save(self, name: str, images: Tensor) -> Tensor:
        """Keep images [n, 3, H, W] in [-1, 1]; returns them as ``load`` will."""
        small = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).contiguous()
        file = self._file(name)
        temporary = file.with_suffix(f".{os.getpid()}")
        save_file({"images": small}, temporary)
        os.replace(temporary, file)
        return small.float() / 127.5 - 1

    def _file(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.safetensors"


def generate_kept(
    pipe: Any, prompts: Sequence[str], seeds_per_prompt: int, store: ImageStore, *, batch: int = 8,
    progress: bool = True, **options: Any,
) -> Tensor:  # fmt: skip
    """As ``generate``, prompt by prompt through ``store``: what it holds is not drawn again."""
    missing = [i for i, prompt in enumerate(prompts) if store.load(f"{i}:{prompt}") is None]
    together = max(1, batch // seeds_per_prompt)
    with progress_bar(progress) as bar:
        task = bar.add_task("generating", total=len(prompts), completed=len(prompts) - len(missing))
        for start in range(0, len(missing), together):
            part = missing[start : start + together]
            new = generate(
                pipe, [prompts[i] for i in part], seeds_per_prompt, numbers=part, batch=batch, progress=False, **options
            )
            for i, images in zip(part, new.split(seeds_per_prompt), strict=True):
                store.save(f"{i}:{prompts[i]}", images)
            bar.advance(task, len(part))
    drawn = [store.load(f"{i}:{prompt}") for i, prompt in enumerate(prompts)]
    return torch.cat([images for images in drawn if images is not None])


@contextmanager
def measurements_on_disk(
    path: Path, asked: dict[str, Any], resume: bool
) -> Iterator[tuple[dict[str, Measurement], Callable[[Measurement], None]]]:
    """The measurements that ``path`` holds by prompt, and a function that adds one; begun anew unless ``resume`` is on.

    Raises:
        ValueError: they are of other settings.
    """
    wanted = json.loads(json.dumps(asked))
    rows = read_json_lines(path) if resume else []
    if rows:
        _same(rows[0], wanted, path)
    else:
        path.unlink(missing_ok=True)
    with append_rows(path) as write:
        if not rows:
            write(wanted)

        def keep(m: Measurement) -> None:
            cosine = None if m.cosine is None else m.cosine.tolist()
            write({"prompt": m.prompt, "magnitudes": m.magnitudes.tolist(), "cosine": cosine, "seconds": m.seconds})

        yield {row["prompt"]: _measurement(row) for row in rows[1:]}, keep


def _measurement(row: dict[str, Any]) -> Measurement:
    cosine = None if row["cosine"] is None else np.asarray(row["cosine"], dtype=np.float64)
    return Measurement(row["prompt"], np.asarray(row["magnitudes"], dtype=np.float64), cosine, row["seconds"])


def _same(before: dict[str, Any], asked: dict[str, Any], place: Path) -> None:
    differing = [name for name in asked if before.get(name) != asked[name]]
    if differing:
        raise ValueError(
            f"--resume: '{place}' was begun with another {', '.join(differing)}; ask the same, or name another --out"
        )
