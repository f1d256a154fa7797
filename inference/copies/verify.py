"""Is an image a copy of a training image? The nearest training pairs of an index, with pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from memsieve.filtering.conformal import smallest_reference
from memsieve.filtering.data.decode import BadSample, to_picture
from memsieve.filtering.data.folder.walk import LeftOut, walk
from memsieve.filtering.files import write_json
from memsieve.inference.copies.index import Neighbour, TrainingIndex
from memsieve.inference.copies.pixels import load_pixels
from memsieve.inference.generate import GenerateSettings
from memsieve.inference.resume import ImageStore, generate_kept
from memsieve.inference.templates import render
from memsieve.inference.weights import pipeline_identity

__all__ = [
    "Match",
    "draw_images",
    "image_files",
    "load_files",
    "picture_uri",
    "square",
    "verify_images",
    "with_base",
    "write_matches",
]

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
MAX_BYTES: Final = 64 * 2**20
THUMB: Final = 128
TOGETHER: Final = 64
"""Images that are compared at a time."""


@dataclass(frozen=True, slots=True)
class Match:
    """One image. ``p`` is the share of held-out images that lie as near to a training image; ``copy`` is None where
    neither held-out images nor a threshold can decide. With an ``error`` there are no neighbours. ``base_distance`` and
    ``base_copy`` say the same of what the model before fine-tuning draws for the prompt from the same noise."""

    name: str
    neighbours: list[Neighbour]
    p: float | None
    copy: bool | None
    error: str | None = None
    base_distance: float | None = None
    base_copy: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def square(images: Tensor, side: int) -> Tensor:
    """Images [N, 3, H, W] resized and centre-cropped to [N, 3, side, side], as the index's own were."""
    height, width = images.shape[-2:]
    scale = side / min(height, width)
    size = (max(round(height * scale), side), max(round(width * scale), side))
    if size != (height, width):
        images = F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    return images[..., top : top + side, left : left + side]


def image_files(path: Path) -> list[Path]:
    """The image files that ``path`` is or holds, sorted; linked folders too, hidden and system ones not.

    Raises:
        ValueError: there are none.
    """
    if path.is_file():
        return [path]
    below = walk(path, LeftOut()) if path.is_dir() else ()
    found = sorted(folder / name for folder, names in below for name in names if _is_image(name))
    if not found:
        raise ValueError(f"--images: '{path}' is neither an image nor a folder that holds one ({', '.join(SUFFIXES)})")
    return found


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def load_files(paths: Sequence[Path], side: int) -> tuple[list[str], list[Tensor | str]]:
    """Names, and pixels [3, side, side] or the reason why a file cannot be used."""
    loaded: list[Tensor | str] = []
    for path in paths:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise BadSample(f"the file has {path.stat().st_size} bytes, over {MAX_BYTES}")
            loaded.append(load_pixels(path.read_bytes(), side, path.name))
        except (BadSample, OSError) as error:
            loaded.append(f"{path}: {error}")
    return [str(path) for path in paths], loaded


def draw_images(
    pipe: Any, prompts: Sequence[str], count: int, folder: Path, settings: GenerateSettings, *, resume: bool = False
) -> Tensor:
    """``count`` images [N, 3, H, W] in [-1, 1] for each prompt, kept in ``folder`` for a run that goes on.

    Raises:
        ValueError: the images in ``folder`` are of other settings and ``resume`` is on, or it holds something else.
    """
    asked = {
        "steps": settings.steps, "guidance_scale": settings.guidance_scale, "seed": settings.seed,
        "images_per_prompt": count, "prompts": list(prompts), "model": pipeline_identity(pipe),
    }  # fmt: skip
    return generate_kept(pipe, prompts, count, ImageStore(folder, asked, resume), settings)


def verify_images(
    index: TrainingIndex,
    names: Sequence[str],
    images: Sequence[Tensor | str],
    *,
    k: int = 3,
    alpha: float = 0.05,
    threshold: float | None = None,
    engine: str = "auto",
) -> list[Match]:
    """One match for each image [3, side, side] (or the text of its error).

    An image is a copy where its nearest training image is nearer than ``threshold``, or, without one, than a share
    ``alpha`` of held-out images is to theirs.

    Raises:
        ValueError: alpha is out of range, or finer than the held-out images can tell.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"--false-positive-rate = {alpha:g}: must lie between 0 and 1")
    if threshold is None and index.null is not None and len(index.null) < smallest_reference(alpha):
        raise ValueError(
            f"--false-positive-rate = {alpha:g} needs at least {smallest_reference(alpha)} held-out images, the index "
            f"has {len(index.null)}"
        )
    usable = [i for i, image in enumerate(images) if not isinstance(image, str)]
    found: dict[int, list[Neighbour]] = {}
    for start in range(0, len(usable), TOGETHER):
        part = usable[start : start + TOGETHER]
        stacked = torch.stack([image for i in part if isinstance(image := images[i], Tensor)])
        found.update(zip(part, index.nearest(stacked, k, engine), strict=True))
    matches: list[Match] = []
    for i, name in enumerate(names):
        if i not in found:
            matches.append(Match(name, [], None, None, str(images[i])))
            continue
        distance = found[i][0].distance
        p = index.p_value(distance)
        copy = None if p is None else p <= alpha + 1e-12
        matches.append(Match(name, found[i], p, distance < threshold if threshold is not None else copy))
    return matches


def with_base(matches: Sequence[Match], base: Sequence[Match]) -> list[Match]:
    """Matches with what became of the base's drawings beside each: a copy that it draws too was not learned since."""
    return [
        replace(mine, base_distance=theirs.neighbours[0].distance, base_copy=theirs.copy)
        for mine, theirs in zip(matches, base, strict=True)
    ]


def write_matches(
    out: Path, index: TrainingIndex, matches: Sequence[Match], images: Sequence[Tensor | str], most: int = 200,
    base_images: Sequence[Tensor] | None = None,
) -> None:  # fmt: skip
    """``matches.json`` with everything, and ``matches.html`` with the ``most`` nearest, side by side with their pairs.

    The page is self-contained; captions and names are escaped. ``base_images`` are what the model before fine-tuning
    draws in the place of each.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = [match.as_dict() for match in matches]
    write_json(out / "matches.json", rows)
    order = [i for i in range(len(matches)) if matches[i].neighbours]
    order.sort(key=lambda i: matches[i].neighbours[0].distance)
    shown = []
    for i in order[:most]:
        image = images[i]
        assert isinstance(image, Tensor)
        pairs = [(n, picture_uri(load_pixels(index.image_bytes(n), index.side))) for n in matches[i].neighbours]
        before = None if base_images is None else picture_uri(base_images[i])
        shown.append({"match": matches[i], "picture": picture_uri(image), "pairs": pairs, "before": before})
    page = render(
        "matches.html",
        shown=shown, total=len(matches), failed=[m for m in matches if m.error], similarity=index.name,
        entries=len(index), copies=sum(bool(m.copy) for m in matches), decided=any(m.copy is not None for m in matches),
    )  # fmt: skip
    (out / "matches.html").write_text(page, encoding="utf-8")


def picture_uri(pixels: Tensor) -> str:
    """A PNG data URI of at most ``THUMB`` pixels a side; small images are enlarged pixel by pixel."""
    image = to_picture(pixels).resize((THUMB, THUMB), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
