"""One sample of a shard: which of its members are read, and the row that they make."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass, field
from typing import IO, Any, Final

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.fields import (
    MAX_JSON_BYTES,
    BadSample,
    check_captions,
    check_image_size,
    printable,
    suffix_names,
)
from memsieve.filtering.data.rows import RawRow

__all__ = ["Sample", "add_member", "row_of"]

MAX_MEMBERS: Final = 1000
"""Files of one sample; more are refused, so that one key cannot fill the memory."""


@dataclass(slots=True)
class Sample:
    """What was read so far of the members that share a key."""

    key: str
    read: bool
    """Its members' bytes are wanted, not only their headers."""
    error: str | None = None
    status: str = "bad_sample"
    fields: dict[str, bytes | None] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    partial: bool = False
    start: int = 0
    end: int = 0


def add_member(
    sample: Sample, tar: tarfile.TarFile, archive: IO[bytes], info: tarfile.TarInfo, suffix: str, config: DataConfig
) -> None:
    """Read one member into ``sample`` where it is wanted and within the limits, by the size in its header."""
    captions = suffix_names(config.caption_key)
    if len(sample.names) >= MAX_MEMBERS:
        sample.error = f"the sample has more than {MAX_MEMBERS} files"
        return
    sample.names.append(info.name)
    try:
        if suffix in sample.fields:
            raise BadSample(f"member '{info.name}' comes twice in the sample")
        sample.fields[suffix] = None
        if not info.isreg():
            kind = f"a link to '{info.linkname}'" if info.islnk() or info.issym() else "not a regular file"
            raise BadSample(f"member '{info.name}' is {kind}; links and devices are not followed")
        if suffix in suffix_names(config.image_key):
            check_image_size(info.size, config)
        elif suffix == "json":
            if info.size > MAX_JSON_BYTES:
                if any(name.startswith("json.") for name in captions):
                    raise BadSample(f"member '{info.name}' has {info.size} bytes, over {MAX_JSON_BYTES}")
                return
        elif suffix not in captions:
            return
        elif info.size > config.max_caption_bytes + 16:  # room for a byte order mark and line ends
            raise BadSample(
                f"the caption has {info.size} bytes, over data.max_caption_bytes = {config.max_caption_bytes}",
                "bad_caption",
            )
    except BadSample as error:
        if sample.error is None:
            sample.error, sample.status = printable(str(error)), error.status
        return
    reader = tar.extractfile(info)
    if reader is None:
        sample.fields[suffix] = b""
    elif sample.read:
        sample.fields[suffix] = reader.read()
    elif tar.fileobj is not archive:  # decompressors meet damage at a place that depends on how they are read
        reader.read()
    elif info.size:  # that its last byte is there is all that is asked: a cut must be met where reading meets it
        reader.seek(info.size - 1)
        reader.read(1)


def row_of(sample: Sample, path: str, index: int, config: DataConfig) -> RawRow:
    """The sample as row ``index`` of the shard at ``path``; with ``error`` where it cannot be used, or was not read."""
    key, span = printable(sample.key), (sample.start, sample.end)
    if not sample.read:
        return RawRow(key=key, shard=path, index=index, error="not read", span=span)
    try:
        if sample.error is not None:
            raise BadSample(sample.error, sample.status)
        _check_merged(sample, config)
        present = f"; its fields: {', '.join(sample.fields)}"
        images = [data for name in suffix_names(config.image_key) if (data := sample.fields.get(name))]
        if not images:
            raise BadSample(f"the sample has no image (data.image_key = '{config.image_key}'{present})", "no_image")
        meta = _json(sample, config)
        captions = check_captions(_caption(sample, meta, config), config, present)
    except BadSample as error:
        return RawRow(key, path, index, error=printable(str(error)), status=error.status, span=span)
    several = tuple(captions) if len(captions) > 1 else ()
    return RawRow(key, path, index, images[0], captions[0], meta, span=span, captions=several)


def _check_merged(sample: Sample, config: DataConfig) -> None:
    """``img.v1.jpg`` and ``img.v2.jpg`` are one sample ``img`` to WebDataset; say so rather than keep one of them."""
    images = suffix_names(config.image_key)
    texts = {name.partition(".")[0] for name in suffix_names(config.caption_key)}
    dotted = [suffix.rpartition(".") for suffix in sample.fields if "." in suffix and suffix not in images]
    captioned = {stem for stem, _, last in dotted if last in texts}
    merged = [stem for stem, _, last in dotted if last in images]
    if merged and (not any(name in sample.fields for name in images) or captioned.intersection(merged)):
        raise BadSample(
            f"{', '.join(sample.names)} fall under one key '{sample.key}', since a key ends at the first dot; "
            "rename them without dots, or name the field in data.image_key"
        )


def _json(sample: Sample, config: DataConfig) -> dict[str, Any]:
    data = sample.fields.get("json")
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        if "json." in config.caption_key:
            raise BadSample(f"the sample's json cannot be read: {error}", "bad_caption") from None
        return {}
    return value if isinstance(value, dict) else {}


def _caption(sample: Sample, meta: dict[str, Any], config: DataConfig) -> object:
    for name in suffix_names(config.caption_key):
        value = meta.get(name[5:]) if name.startswith("json.") else sample.fields.get(name)
        if value is not None:
            return value
    return None
