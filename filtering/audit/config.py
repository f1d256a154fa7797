"""Settings of an audit, and the part of them that its scores depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, Literal

from pydantic import Field, model_validator

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.settings import LocalPath, PathText, Settings

__all__ = ["AuditConfig", "AuditRun", "config_hash", "deciding"]

FORMAT: Final = 1
"""Raised when the meaning of a column or a draw changes, so that older scores count as stale."""
_OF_DATA = (
    "format", "image_key", "caption_key", "split", "resolution", "max_image_bytes", "max_image_pixels",
    "max_caption_bytes", "allow_empty_caption",
)  # fmt: skip


class AuditConfig(Settings):
    """What an audit reads, and how it scores."""

    data: DataConfig
    """``crop`` must be center and ``flip`` off: a score belongs to the image, not to a draw of its crop."""
    model: PathText | None = None
    """A diffusers pipeline folder, or a hub id; None looks at the data alone."""
    text_encoder_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the text encoders; a training run that looks its reference up in this audit uses the same."""
    seed: int = 0
    """Of the draws; a training run that looks its reference up in this audit uses the same."""
    draws: int = Field(default=4, ge=1, le=1024)
    """(t, noise, VAE sample) draws per sample: visits 0 to draws - 1 of its pair."""
    strata: int = Field(default=4, ge=1, le=1024)
    """Parts of t that every so many visits cover once."""
    batch_size: int = Field(default=16, ge=1)
    """Samples per forward."""
    describe: list[PathText] = []
    """Descriptors of the pictures, for groups of near-duplicates: pdq, sscd, sscd_distilled, or the file of a model."""
    prefetch: int = Field(default=2, ge=0, le=64)
    """Batches that are read and decoded ahead by a thread; 0 decodes between the forwards."""

    @model_validator(mode="after")
    def _plain(self) -> AuditConfig:
        if self.data.crop != "center" or self.data.flip:
            raise ValueError("an audit scores the centre crop, unmirrored: leave data.crop and data.flip alone")
        return self


class AuditRun(AuditConfig):
    """A config file of ``memsieve audit score``: what is audited, into which folder, and who does the work."""

    output: LocalPath
    """Folder of the audit; the same command goes on with it."""
    engine: Literal["local", "ray"] = "local"
    """This process, or the ranks that ``accelerate launch`` started; or a Ray cluster."""
    workers: int = Field(default=0, ge=0)
    """Ray actors; 0 takes one per GPU, or one per core where there is no GPU."""
    ray_address: str | None = None
    """Of an existing Ray cluster; None takes RAY_ADDRESS, or starts a local one."""
    device: str | None = None
    """Where the model goes, as cuda:0; None takes the first GPU of the rank, or the CPU."""

    def audit(self) -> AuditConfig:
        """The part that an audit keeps; what was not set stays unset, so that the model's own resolution counts."""
        names = set(AuditConfig.model_fields)
        return AuditConfig.model_validate(self.model_dump(include=names, exclude_unset=True))


def deciding(
    config: AuditConfig, model: dict[str, Any] | None, described: dict[str, str] | None = None
) -> dict[str, Any]:
    """Everything that rows and scores are a function of, besides the shard itself, in values that JSON can hold;
    ``described`` are the columns of descriptors and what they are made by.

    The batch size, prefetching, device and engine are not among it: they move a score by no more than rounding does.
    """
    data = config.data.model_dump(mode="json")
    values: dict[str, Any] = {"format": FORMAT, "data": {name: data[name] for name in _OF_DATA}, "model": model}
    if config.data.buckets is not None and model is not None:
        values["data"]["buckets"] = [list(shape) for shape in config.data.shapes]
    if model is not None:
        values |= {"seed": config.seed, "draws": config.draws, "strata": config.strata}
    # Said where it is so, as buckets are, so that audits without descriptors keep their hash.
    return values | ({"described": described} if described else {})


def config_hash(values: dict[str, Any]) -> str:
    """sha256 (hex) of what ``deciding`` gave."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
