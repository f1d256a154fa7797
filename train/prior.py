"""Prior preservation: class pictures that the base draws, seen beside the training pairs in every window, so that the
model keeps what it knew of the class (DreamBooth: Ruiz et al., CVPR 2023).

They are drawn once, before the first step, and kept in the run's folder. One in five is never trained on: drawings of
its caption say what the model draws near to such a picture without having learned it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from memsieve.filtering.data.draws import row_generator
from memsieve.filtering.data.rows import Row, content_id
from memsieve.filtering.settings import SettingsError
from memsieve.train.batch import Batch, build_batch
from memsieve.train.config import RunConfig
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.probes import validation_images
from memsieve.train.visits import draw_visits, plain_samples
from memsieve.train.watchdog import Watch

__all__ = ["PRIOR_STREAM", "Prior", "check_prior", "open_prior"]

PRIOR_STREAM: Final = -2
"""The stream number of class pictures: no row that is read has it."""
TOGETHER: Final = 8
"""Pictures that are drawn in one go, on whichever rank: a picture does not hang on how many ranks there are."""
HELD_OUT_EACH: Final = 5
"""Every so many-th picture is held out."""


def check_prior(config: RunConfig, captions: Sequence[str]) -> None:
    """Refuse prompts that are captions of training pairs: that the base draws something else for them is the point.

    Raises:
        SettingsError: names the prompt; or windows are of several shapes, and class pictures are squares.
    """
    if config.prior.prompts and config.data.buckets is not None:
        raise SettingsError(
            "prior.prompts: class pictures are squares, and data.buckets trains on other shapes, which one forward "
            "does not take together; leave one of them out"
        )
    for prompt in config.prior.prompts:
        if prompt in captions:
            raise SettingsError(
                f"prior.prompts: '{prompt}' is a caption of training pairs, which the model is to learn; name the "
                "class alone, as 'a photo of a dog' beside 'a photo of sks dog'"
            )


class Prior:
    """The class pictures of a run.

    Args:
        config: of the run.
        pictures: PNG files, in order.
        rank, world_size: whose share of a window this process takes.
    """

    def __init__(self, config: RunConfig, pictures: Sequence[bytes], rank: int, world_size: int) -> None:
        self.weight, self.seed = config.prior.weight, config.train.seed
        self.rank, self.world_size = rank, world_size
        self.settings = replace(DrawSettings.of(config), caption_dropout=0.0, random_tokens=0)
        prompts = config.prior.prompts
        self._pictures = [_pixels(png) for png in pictures]
        self._groups = [content_id(png) for png in pictures]
        self._captions = [prompts[i % len(prompts)] for i in range(len(pictures))]
        self.held_out = [self._row(i, 0) for i in range(HELD_OUT_EACH - 1, len(pictures), HELD_OUT_EACH)]
        self.trained = [i for i in range(len(pictures)) if i % HELD_OUT_EACH != HELD_OUT_EACH - 1]

    def _row(self, picture: int, offset: int) -> Row:
        return Row(
            key=f"prior-{picture:05d}", shard="prior", index=picture, group=self._groups[picture],
            caption=self._captions[picture], pixels=self._pictures[picture].float() / 127.5 - 1.0,
            stream=PRIOR_STREAM, epoch=0, offset=offset,
        )  # fmt: skip

    def beside(self, denoiser: Any, batches: Sequence[Batch], step: int) -> list[Batch]:
        """The batches of window ``step`` (from 0), each with as many class pictures as it has rows.

        Which ones, and how they are noised, depends on the seed and their place in the window of all ranks.
        """
        found = []
        for number, batch in enumerate(batches):
            size = len(batch.visits)
            first = ((step * len(batches) + number) * self.world_size + self.rank) * size
            rows = [self._row(self._at(place), place) for place in range(first, first + size)]
            samples = plain_samples(rows, self.settings, [("prior", row.offset, 0) for row in rows])
            prior = build_batch(denoiser, draw_visits(denoiser, samples, self.settings))
            found.append(replace(batch, prior=prior))
        return found

    def _at(self, place: int) -> int:
        """The picture at a place of the whole run: all of them once, then anew in another order."""
        times, rest = divmod(place, len(self.trained))
        order = row_generator(self.seed, times, purpose="prior order").permutation(len(self.trained))
        return self.trained[int(order[rest])]


def _pixels(png: bytes) -> torch.Tensor:
    """uint8 [3, H, W]: a quarter of what they take as numbers."""
    with Image.open(io.BytesIO(png)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def open_prior(config: RunConfig, denoiser: Any, accelerator: Any, watch: Watch) -> Prior | None:
    """Draw what is missing of the class pictures, all ranks their share, and read them; None where none are asked for.

    ``denoiser.model`` is the model before its first step. What was drawn stays in ``OUTPUT/prior``, and a run that was
    stopped goes on with it.
    """
    if not config.prior.prompts:
        return None
    folder = config.output / "prior" / _digest(config)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:05d}.png" for number in range(config.prior.pictures)]
    parts = [range(start, min(start + TOGETHER, len(files))) for start in range(0, len(files), TOGETHER)]
    mine = [part for part in parts[accelerator.process_index :: accelerator.num_processes]
            if not all(files[number].is_file() for number in part)]  # fmt: skip
    with Progress(console=Console(stderr=True, emoji=False), disable=not mine) as progress:
        task = progress.add_task("drawing class pictures", total=len(mine))
        for part in mine:
            watch.enter("drawing class pictures", 0)
            _draw(config, denoiser, part, files)
            progress.advance(task)
    accelerator.wait_for_everyone()
    pictures = [file.read_bytes() for file in files]
    return Prior(config, pictures, accelerator.process_index, accelerator.num_processes)


def _draw(config: RunConfig, denoiser: Any, part: range, files: Sequence[Path]) -> None:
    options = config.prior
    images = validation_images(
        denoiser,
        denoiser.model,
        [options.prompts[number % len(options.prompts)] for number in part],
        seed=int(row_generator(config.train.seed, part.start, purpose="prior").integers(2**31)),
        steps=options.steps,
        guidance_scale=options.guidance_scale,
        resolution=config.data.resolution,
    )
    for number, image in zip(part, images, strict=True):
        whole = files[number].with_suffix(f".{os.getpid()}")
        image.convert("RGB").save(whole, "PNG")
        whole.replace(files[number])


def _digest(config: RunConfig) -> str:
    """Pictures drawn otherwise are other pictures."""
    options = config.prior
    asked = [str(config.model.path), options.prompts, options.pictures, options.steps, options.guidance_scale]
    asked += [config.train.seed, config.data.resolution]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
