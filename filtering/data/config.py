"""Settings of the data: where it lies, how it is split, how images become tensors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from memsieve.filtering.data.buckets import Bucket, Buckets, shapes_of, sides_of
from memsieve.filtering.settings import PathText, PathTexts, Settings

__all__ = ["DataConfig"]


class DataConfig(Settings):
    """Section ``data`` of a training or audit config."""

    format: Literal["webdataset", "hf", "folder"] = "webdataset"
    """Kind of source: WebDataset tar shards, a Hugging Face dataset saved to disk (or its name), an image folder."""
    path: PathTexts
    """Shards (brace ranges and globs allowed), dataset folder or name, or image folder."""
    held_out_path: PathTexts | None = None
    """The same kind of source, never trained on: calibrates the filter and gives the held-out loss."""
    held_out_fraction: float = Field(default=0.02, ge=0.0, lt=0.5)
    """Share of groups held out by hash of their content where no ``held_out_path`` is given."""
    held_out_max: int = Field(default=512, ge=1)
    """At most this many held-out pairs are kept in memory."""
    image_key: str = "jpg;jpeg;png;webp;bmp;gif;tif;tiff;avif"
    """Field names of the image, or its suffixes in a folder; first match wins, the case of letters is no matter."""
    caption_key: str = "txt;caption;text"
    """Field names of the caption, or suffixes of the files beside an image; ``json.NAME`` reads a field of the
    sample's json. Where it holds a list of captions, each visit draws one of them."""
    resolution: int = Field(default=512, ge=8)
    """Side of the square that the model sees, in pixels: shorter side resized to it, then cropped."""
    buckets: Buckets | None = None
    """Aspect-ratio buckets: shapes with as many pixels as that square, as WIDTHxHEIGHT, or ``auto`` for nine from 2.4:1
    to 1:2.4; a picture is cut to the nearest. None cuts all to the square."""
    crop: Literal["center", "random"] = "center"
    flip: bool = False
    """Mirror half of the images, by a draw per row."""
    split: str = "train"
    """Split of a Hugging Face dataset."""
    streams: int = Field(default=0, ge=0)
    """Row streams that a pass is dealt to and a global batch is filled from; 0 picks the largest of 8, 4, 2, 1 that the
    data and the batch allow. A multiple of ranks x workers; fixed streams make the data order independent of the number
    of ranks."""
    shuffle_buffer: int = Field(default=1000, ge=0)
    """Rows held back for shuffling within a stream; 0 keeps the order of the data."""
    workers: int = Field(default=0, ge=0)
    """Loader processes per rank."""
    max_bad: int = Field(default=0, ge=0)
    """Unusable samples to tolerate before the run stops; each one is named in the ledger."""
    max_image_bytes: int = Field(default=64 * 2**20, ge=1024)
    """Encoded images larger than this are refused."""
    max_image_pixels: int = Field(default=178_956_970, ge=1024)
    """Images with more pixels than this are refused before they are decoded."""
    max_caption_bytes: int = Field(default=65536, ge=16)
    """Captions longer than this are refused."""
    allow_pipe: bool = False
    """Let ``pipe:COMMAND`` name a shard; the command is run by a shell, so the list of shards must be trusted."""
    keep_list: PathText | None = None
    """A keep-list of ``memsieve audit select``: rows that it does not keep are read past, and counted."""
    allow_empty_caption: bool = False
    """Accept samples without a caption and train them unconditionally; else they count as failed."""
    group_by: Literal["content", "key"] = "content"
    """Identity that evidence accumulates under: sha256 of the encoded image bytes, or the sample's key."""
    groups: PathText | None = None
    """A Parquet table with columns ``content`` and ``group``, for ``group_by: content``: images that are one group
    though their bytes differ (clusters of perceptual hashes, say). Other images are groups of their own."""

    repeats: Literal["all", "once"] | PositiveInt = "all"
    """Rows of a group (one image, or a group of ``groups``) in a pass: all, one, or at most so many; other ones in each
    pass. What repeats is known from ``keep_list``, or from a look at all rows before the first pass, which is kept."""

    @property
    def shapes(self) -> tuple[Bucket, ...]:
        """(height, width) of all shapes that pictures are cut to, in pixels.

        Raises:
            SettingsError: ``buckets`` does not go with ``resolution``.
        """
        return shapes_of(self.buckets, self.resolution)

    def in_squares(self) -> DataConfig:
        """The same data without buckets: what is drawn to be compared with pictures is square, and so are they."""
        return self if self.buckets is None else self.model_copy(update={"buckets": None})

    @field_validator("buckets")
    @classmethod
    def _are_shapes(cls, buckets: Buckets | None) -> Buckets | None:
        if not isinstance(buckets, list):
            return buckets
        if not buckets:
            raise ValueError("data.buckets: there is no shape in the list; name some, or leave data.buckets out")
        for name in buckets:
            if min(sides_of(name)) < 8:
                raise ValueError(f"data.buckets: '{name}' has a side of less than 8 pixels")
        return list(dict.fromkeys(buckets))

    @model_validator(mode="after")
    def _of_one_size(self) -> DataConfig:
        if "resolution" in self.model_fields_set:  # an audit takes the model's own where none is named
            _ = self.shapes
        return self

    @model_validator(mode="after")
    def _one_identity(self) -> DataConfig:
        if self.groups is not None and self.group_by != "content":
            raise ValueError(
                f"data.groups: '{self.groups}' names groups by content, and data.group_by is {self.group_by}; set "
                "data.group_by: content, or leave data.groups out"
            )
        return self
