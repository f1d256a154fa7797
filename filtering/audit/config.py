"""Settings of an audit, and the part of them that its scores depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, Literal

from pydantic import Field, model_validator

from filtering.data.config import DataConfig
from filtering.settings import Settings

__all__ = ["AuditConfig", "config_hash", "deciding"]

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
    model: str | None = None
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

    @model_validator(mode="after")
    def _plain(self) -> AuditConfig:
        if self.data.crop != "center" or self.data.flip:
            raise ValueError("an audit scores the centre crop, unmirrored: leave data.crop and data.flip alone")
        return self


def deciding(config: AuditConfig, model: dict[str, Any] | None) -> dict[str, Any]:
    """Everything that rows and scores are a function of, besides the shard itself, in values that JSON can hold.

    The batch size, device and engine are not among it: they move a score by no more than rounding does.
    """
    data = config.data.model_dump(mode="json")
    values: dict[str, Any] = {"format": FORMAT, "data": {name: data[name] for name in _OF_DATA}, "model": model}
    if model is not None:
        values |= {"seed": config.seed, "draws": config.draws, "strata": config.strata}
    return values


def config_hash(values: dict[str, Any]) -> str:
    """sha256 (hex) of what ``deciding`` gave."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
