"""Fill a run's cache of encoded images and captions, and put it in the place of the encoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import BadSample, decode_row
from memsieve.filtering.data.rows import Row
from memsieve.filtering.data.sources import Source
from memsieve.filtering.denoisers.cache import CacheFolder, caption_key, image_key
from memsieve.filtering.denoisers.cached import CachedDenoiser, tensors_of
from memsieve.filtering.denoisers.fingerprint import model_hashes
from memsieve.filtering.denoisers.parts import NETWORKS
from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.watchdog import Watch

__all__ = ["cached"]


def cached(
    config: RunConfig, denoiser: Any, source: Source, held_out: list[Row], accelerator: Any, watch: Watch
) -> Any:
    """The denoiser with ``train.cache`` in the place of its encoders, filled first; itself where there is no cache.

    All ranks fill together, each its share of the data, and wait for each other; one that was stopped goes on.

    Raises:
        SettingsError: the cache is another model's, or the run changes what it encodes at every visit.
    """
    if config.train.cache is None:
        return denoiser
    _refuse_what_changes(config)
    if accelerator.is_main_process:  # one writes the manifest, the others read it
        _open(config.train.cache, denoiser)
    accelerator.wait_for_everyone()
    folder = _open(config.train.cache, denoiser)
    data = _digest([list(source.identity), config.data.model_dump(mode="json"), [row.group for row in held_out]])
    if not folder.is_complete(data):
        rank, ranks = accelerator.process_index, accelerator.num_processes
        total = (1 + config.data.flip) * source.count_rows() // ranks if rank == 0 else 0
        _fill(folder, denoiser, config, _rows(source, held_out, config.data, rank, ranks), total, watch)
        accelerator.wait_for_everyone()
        folder.refresh()
        if accelerator.is_main_process:
            folder.mark_complete(data)
    return CachedDenoiser(denoiser, folder)


def _refuse_what_changes(config: RunConfig) -> None:
    if config.data.crop != "center":
        raise SettingsError(
            f"train.cache: data.crop: {config.data.crop} cuts an image anew at every visit; set data.crop: center, or "
            "leave train.cache out"
        )
    if config.train.random_tokens:
        raise SettingsError(
            f"train.cache: train.random_tokens: {config.train.random_tokens} changes a caption at every visit; set it "
            "to 0, or leave train.cache out"
        )


def _open(folder: Path, denoiser: Any) -> CacheFolder:
    return CacheFolder(folder, model_hashes(denoiser, leave_out=(*NETWORKS, "scheduler")))


def _rows(
    source: Source, held_out: list[Row], config: DataConfig, rank: int, ranks: int
) -> Iterator[tuple[Row, torch.Tensor]]:
    """This rank's share of the samples that can be used, with all the pixels that a visit may show."""
    plain = config.model_copy(update={"flip": False})
    for part in range(rank, len(source), ranks):
        for raw in source.read(part):
            try:
                row = decode_row(raw, plain, 0, 0, 0, 0)
            except BadSample:
                continue  # training meets it again, and says so
            yield row, row.pixels
            yield from ((replace(row, caption=caption), row.pixels) for caption in raw.captions)  # a visit draws one
            if config.flip:
                yield row, row.pixels.flip(-1)
    for row in held_out[rank::ranks]:
        yield row, row.pixels


def _fill(
    folder: CacheFolder,
    denoiser: Any,
    config: RunConfig,
    rows: Iterable[tuple[Row, torch.Tensor]],
    total: int,
    watch: Watch,
) -> None:
    """Encode what is missing, in batches; what was encoded is written whatever stops this.

    ``total``: rows to expect, about, for the bar; 0 shows none.
    """
    images: dict[str, tuple[str, torch.Tensor]] = {}
    captions: dict[str, tuple[str, str]] = {}
    size = config.train.batch_size
    for shape in config.data.shapes:
        padding = torch.zeros(3, *shape)
        if not folder.has("image", image_key(padding)):
            images[image_key(padding)] = ("", padding)
    console = Console(stderr=True, emoji=False)
    try:
        with Progress(console=console, disable=not total) as progress:
            task = progress.add_task("encoding for train.cache", total=total)
            for row, pixels in rows:
                name = f"{row.shard}:{row.key}"
                if not folder.has("image", key := image_key(pixels)):
                    images[key] = (name, pixels)
                if row.caption and not folder.has("caption", key := caption_key(row.caption)):
                    captions[key] = (name, row.caption)
                watch.enter("encoding for train.cache", 0)  # may take longer than ranks wait for each other
                if len(images) >= size:
                    _encode_images(folder, denoiser, images)
                if len(captions) >= size:
                    _encode_captions(folder, denoiser, captions)
                progress.advance(task)
        _encode_images(folder, denoiser, images)
        _encode_captions(folder, denoiser, captions)
    finally:
        folder.write()


def _encode_images(folder: CacheFolder, denoiser: Any, waiting: dict[str, tuple[str, torch.Tensor]]) -> None:
    """Those that wait, in one forward for each shape."""
    shapes: dict[torch.Size, list[str]] = {}
    for key, (_, pixels) in waiting.items():
        shapes.setdefault(pixels.shape, []).append(key)
    for keys in shapes.values():
        mean, std = denoiser.posterior(torch.stack([waiting[key][1] for key in keys]))
        folder.add("image", keys, [waiting[key][0] for key in keys], {"mean": mean, "std": std})
    waiting.clear()


def _encode_captions(folder: CacheFolder, denoiser: Any, waiting: dict[str, tuple[str, str]]) -> None:
    if waiting:
        names, texts = zip(*waiting.values(), strict=True)
        folder.add("caption", list(waiting), names, tensors_of(denoiser.conditioning(list(texts))))
        waiting.clear()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
