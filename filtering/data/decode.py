"""From encoded bytes to the tensor that the model sees, within limits that hold for untrusted files."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from memsieve.filtering.data.buckets import Bucket, nearest_bucket
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.draws import row_generator
from memsieve.filtering.data.fields import BadSample, check_image_size
from memsieve.filtering.data.group_table import group_table
from memsieve.filtering.data.png_text import without_large_text
from memsieve.filtering.data.rows import RawRow, Row, content_id

__all__ = [
    "BadSample",
    "centred_pixels",
    "decode_image",
    "decode_row",
    "from_levels",
    "group_of",
    "to_levels",
    "upright_size",
]

# Left to itself PIL tries every plugin, the one that calls Ghostscript included.
# A plugin that this build of PIL lacks must not be named to it.
Image.init()
_FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF") if name in Image.OPEN)
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)
"""The EXIF tag that says how a picture is turned, and its values that swap height and width."""
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def group_of(raw: RawRow, config: DataConfig) -> str:
    """The identity that evidence about ``raw`` accumulates under, by ``config.group_by`` and ``config.groups``."""
    if config.group_by == "key":
        return raw.key
    content = content_id(raw.image)
    return content if config.groups is None else group_table(config.groups).get(content, content)


def decode_row(raw: RawRow, config: DataConfig, stream: int, epoch: int, offset: int, seed: int) -> Row:
    """Decode one row: ``pixels`` float32 [3, H, W] in [-1, 1], (H, W) the nearest of ``config.shapes``.

    Crop, flip and, of several captions, the caption are drawn from (seed, stream, epoch, offset) alone.

    Raises:
        BadSample: the row could not be read, or its image is corrupt, truncated or over a limit.
    """
    if raw.error is not None:
        raise BadSample(raw.error, raw.status)
    check_image_size(len(raw.image), config)
    image = decode_image(raw.image, config)
    shape = nearest_bucket(*image.size, config.shapes)
    image = _fit(image, shape, config.crop, row_generator(seed, stream, epoch, offset, purpose="crop"))
    if config.flip and row_generator(seed, stream, epoch, offset, purpose="flip").random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Row(
        key=raw.key,
        shard=raw.shard,
        index=raw.index,
        group=group_of(raw, config),
        caption=_drawn_caption(raw, seed, stream, epoch, offset),
        pixels=_as_tensor(image),
        stream=stream,
        epoch=epoch,
        offset=offset,
    )


def _drawn_caption(raw: RawRow, seed: int, *position: int) -> str:
    if len(raw.captions) < 2:
        return raw.caption or ""
    # "caption" alone is the draw of whether a visit is trained without one.
    generator = row_generator(seed, *position, purpose="which caption")
    return raw.captions[int(generator.integers(len(raw.captions)))]


def centred_pixels(image: Image.Image, *shapes: Bucket) -> torch.Tensor:
    """The middle of an RGB image as float32 [3, H, W] in [-1, 1], (H, W) the nearest of ``shapes``, as rows are decoded
    with ``crop: center`` and without ``flip``: nothing is drawn, so that it is a function of the image alone."""
    return _as_tensor(_fit(image, nearest_bucket(*image.size, shapes), "center", None))


def _as_tensor(image: Image.Image) -> torch.Tensor:
    return from_levels(torch.from_numpy(np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))))


def from_levels(levels: torch.Tensor) -> torch.Tensor:
    """Pixels, float32 in [-1, 1], of levels 0 to 255."""
    return torch.from_numpy(levels.numpy().astype(np.float32) / np.float32(127.5) - np.float32(1.0))


def to_levels(pixels: torch.Tensor) -> torch.Tensor:
    """The levels, uint8, that ``pixels`` are decoded from: a quarter of the bytes."""
    return ((pixels + 1.0) * 127.5).round().to(torch.uint8)


def to_picture(pixels: torch.Tensor) -> Image.Image:
    """The RGB picture of ``pixels`` [3, H, W]; what lies outside [-1, 1] is cut off."""
    return Image.fromarray(to_levels(pixels.detach().cpu().float().clamp(-1, 1)).permute(1, 2, 0).contiguous().numpy())


def upright_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of the upright image in ``data``, by its header alone; None where it cannot be opened."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            width, height = image.size
            # PIL turns a TIFF itself, and says the size that it comes to.
            turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _TURNED
    except Exception:  # as where it is decoded: training meets it, and says why
        return None
    return (height, width) if turned else (width, height)


def decode_image(data: bytes, config: DataConfig, ground: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The upright RGB image in ``data``: EXIF rotation applied, transparency laid on ``ground``, first frame only.

    Pixels of 16 bits are scaled to 8, those of 32 bits by their values: up to 255 they are 8-bit values, up to 65535
    16-bit ones. A PNG's text and colour profile are left unread where they are large.

    Raises:
        BadSample: not an image of a known format, corrupt, truncated, over ``max_image_pixels``, or with pixels whose
            range is not known.
    """
    try:
        return _decoded(data, config, ground)
    except BadSample:
        smaller = without_large_text(data)
        if smaller is None:
            raise
        return _decoded(smaller, config, ground)


def _decoded(data: bytes, config: DataConfig, ground: tuple[int, int, int]) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # PIL warns at half of its own limit; the limit that counts here is ours, checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError:
        raise BadSample(
            f"the image is not one of {', '.join(_FORMATS)}, or its header is damaged", "bad_image"
        ) from None
    except Exception as error:  # a decoder fed with untrusted bytes can raise nearly anything
        raise BadSample(f"the image cannot be opened: {error}", "bad_image") from error
    width, height = image.size
    if width * height > config.max_image_pixels:
        raise BadSample(
            f"the image has {width} x {height} pixels, over data.max_image_pixels = {config.max_image_pixels}",
            "bad_image",
        )
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), ground)
    except BadSample:
        raise
    except Exception as error:  # as above: zlib, struct, SyntaxError, OSError, by format
        raise BadSample(f"the image is truncated or corrupt: {error}", "bad_image") from error


def _to_rgb(image: Image.Image, ground: tuple[int, int, int]) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        image = _eight_bit(image)
    if image.mode == "F":
        raise BadSample("the image has floating-point pixels, whose range is not known", "bad_image")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*ground, 255)), layer).convert("RGB")
    return image.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """PIL's own conversion clips at 255, which turns nearly every 16-bit image white."""
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise BadSample("the image has 32-bit pixels outside 0..65535, whose range is not known", "bad_image")
    if image.mode == "I" and high <= 255:
        # 32 bits that hold 8-bit values: as 16-bit ones the picture would be black.
        return Image.fromarray(values.astype(np.uint8))
    return Image.fromarray(np.round(values / 257.0).astype(np.uint8))


def _fit(image: Image.Image, shape: Bucket, crop: str, generator: np.random.Generator | None) -> Image.Image:
    """Resize until ``shape`` is covered and crop what stands over, as one step: only what is kept is ever computed, so
    a strip of 1 x 1e8 pixels does not become a gigabyte on the way."""
    (width, height), (down, across) = image.size, shape
    tall = width * down <= height * across  # so that it stands over above and below
    ends, seen = (height, down * width / across) if tall else (width, across * height / down)
    scale, wanted = (across / width, down) if tall else (down / height, across)
    spare = max(round(ends * scale) - wanted, 0)
    # integers() has an open end; an image of this shape has nothing to draw.
    start = int(generator.integers(0, spare + 1)) if crop == "random" and generator is not None else spare // 2
    # Rounding can put the end of what is seen a fraction of a pixel outside the image.
    low = max(min(start / scale, ends - seen), 0.0)
    high = min(low + seen, float(ends))
    box = (0.0, low, float(width), high) if tall else (low, 0.0, high, float(height))
    return image.resize((across, down), Image.Resampling.LANCZOS, box=box)
