"""WebDataset tar shards: which files a path means, and the rows in one of them, none lost silently.

webdataset's own iterators read a member whole before its size is known, skip links, and end quietly at a cut-off
archive; here its naming rule (``base_plus_ext``) is kept and the tar is walked header by header instead.
"""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

from braceexpand import braceexpand
from webdataset.tariterators import base_plus_ext

from memsieve.filtering.data.archives import DAMAGE, check_protocol, is_damage, open_archive, open_tar
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
from memsieve.filtering.settings import SettingsError

__all__ = ["LOST", "expand_paths", "read_shard"]

MAX_MEMBERS = 1000
"""Files of one sample; more are refused, so that one key cannot fill the memory."""
LOST = ("truncated", "unreachable", "changed")
"""The status of a row that stands for all of a shard from there on."""
_META = re.compile(r"__[^/]*__($|/)")


def expand_paths(
    path: str | list[str], option: str = "data.path", *, allow_pipe: bool = False, allow_empty: bool = False
) -> list[str]:
    """The shard files that ``path`` means: brace ranges, globs (sorted), folders (their ``*.tar``), ``a::b`` joined.

    Args:
        path: one or more of these.
        option: named in messages.
        allow_pipe: let ``pipe:`` commands through.
        allow_empty: let local shards of 0 bytes through.

    Raises:
        SettingsError: nothing is found, a named shard is missing or has 0 bytes, braces do not balance, a kind of URL
            cannot be read here, or ``path`` is a ``pipe:`` command.
    """
    found: list[str] = []
    for text in [path] if isinstance(path, str) else path:
        for part in text.split("::"):
            if part.strip().startswith("pipe:"):
                if not allow_pipe:
                    raise SettingsError(
                        f"{option} = '{text}': 'pipe:' would run a command and is refused; name the files, or allow "
                        "commands (--allow-pipe, data.allow_pipe: true)"
                    )
                found.extend(braceexpand(part.strip()))
                continue
            found.extend(_expand(part.strip(), text, option))
    if not found:
        raise SettingsError(
            f"{option} = {path!r} names no shards; give a tar file, a range, a glob or a folder of tars"
        )
    for name in found:
        if not allow_empty and "://" not in name and not name.startswith("pipe:") and os.path.getsize(name) == 0:
            raise SettingsError(f"{option}: shard '{name}' has 0 bytes; copy it again or leave it out")
    return found


def _expand(part: str, text: str, option: str) -> list[str]:
    if not part:
        return []
    if "://" not in part:
        part = os.path.expanduser(part)
        if os.path.isfile(part):
            return [part]
    try:
        names = list(braceexpand(part))
    except ValueError as error:
        raise SettingsError(f"{option} = '{text}': {error}") from None
    found: list[str] = []
    for name in names:
        if "://" in name:
            check_protocol(name, option)
        if "://" in name or os.path.isfile(name):
            found.append(name)
            continue
        pattern = os.path.join(glob.escape(name), "*.tar") if os.path.isdir(name) else name
        matches = sorted(match for match in glob.glob(pattern, recursive=True) if os.path.isfile(match))
        if not matches:
            what = f"folder '{name}' holds no *.tar file" if os.path.isdir(name) else f"nothing is found at '{name}'"
            raise SettingsError(f"{option} = '{text}': {what}; give a tar file, a range, a glob or a folder of tars")
        found.extend(matches)
    return found


def read_shard(
    path: str,
    config: DataConfig,
    start: int = 0,
    stop: int | None = None,
    *,
    only: Container[int] | None = None,
    bodies: bool = True,
) -> Iterator[RawRow]:
    """The samples of one shard (local path or fsspec URL), in order; ``index`` counts them.

    A sample that cannot be read whole is a row with ``error``; so is the point where a truncated shard ends, and where
    a shard ends or fails before ``start``, or ends before ``stop``: it has changed since it was counted. Nothing is
    extracted to disk, so a member's name is only ever a label.

    Args:
        start, stop: samples before ``start`` are passed by their headers; ``stop`` is not reached.
        only: so are those whose ``index`` is not among these.
        bodies: False gives the same rows, but by their headers alone and with nothing in them.
    """
    wanted = _Wanted(start, stop, only)
    count = 0
    for row in _scan(path, config, wanted, bodies):
        if wanted.is_past(row.index):
            return
        count = row.index + 1
        if row.index in wanted or (row.index < start and row.status in LOST and wanted.is_asked(row.index)):
            yield row
        if row.status in LOST:
            return
    if count < (start if stop is None else stop) and wanted.is_asked(count):
        error = f"shard '{path}' has no sample {count} any more, though it was counted: it has changed"
        yield RawRow(key="", shard=path, index=count, error=printable(error), status="changed")


@dataclass(frozen=True, slots=True)
class _Wanted:
    start: int
    stop: int | None
    only: Container[int] | None

    def __contains__(self, index: int) -> bool:
        return index >= self.start and not self.is_past(index) and self.is_asked(index)

    def is_asked(self, index: int) -> bool:
        return self.only is None or index in self.only

    def is_past(self, index: int) -> bool:
        return self.stop is not None and index >= self.stop


@dataclass(slots=True)
class _Sample:
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


def _scan(path: str, config: DataConfig, wanted: _Wanted, bodies: bool) -> Iterator[RawRow]:
    """Rows of a shard. Those that are not ``wanted``, or all without ``bodies``, hold nothing but their names."""
    index = 0
    seen: set[str] = set()
    sample: _Sample | None = None
    try:
        with open_archive(path, config.allow_pipe) as file, open_tar(file) as tar:
            while (info := tar.next()) is not None:
                # The list of members is kept for random access, and would hold every header of the shard.
                cast("Any", tar).members = []
                key, suffix = base_plus_ext(info.name)
                if key is None or info.isdir() or _META.match(info.name):
                    continue
                if sample is None or sample.key != key:
                    if sample is not None:
                        yield _row(sample, path, index, config)
                        index += 1
                        if wanted.is_past(index):
                            return
                    sample = _Sample(key, bodies and index in wanted, start=info.offset)
                    if key in seen:
                        sample.error = f"key '{key}' came before in this shard: the files of a sample must be adjacent"
                    seen.add(key)
                sample.partial = True
                _add(sample, tar, file, info, suffix.lower(), config)
                sample.partial = False
                sample.end = tar.offset
            # tarfile takes a cut between two members, or inside a header, for the end of the archive.
            archive = cast("IO[bytes]", tar.fileobj)
            archive.seek(tar.offset)
            if archive.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("there is no end-of-archive mark")
    except DAMAGE as error:
        if sample is not None and not sample.partial and _is_whole(sample, path, index, config):
            yield _row(sample, path, index, config)
            index, sample = index + 1, None
        key = printable(sample.key) if sample is not None else ""
        message = f"shard '{path}' cannot be read to its end, it is truncated or damaged: {error}"
        status = "truncated"
        if not is_damage(error):
            message, status = f"shard '{path}' cannot be read: {error}", "unreachable"
        yield RawRow(key=key, shard=path, index=index, error=printable(message), status=status)
        return
    if sample is not None:
        yield _row(sample, path, index, config)


def _add(
    sample: _Sample, tar: tarfile.TarFile, archive: IO[bytes], info: tarfile.TarInfo, suffix: str, config: DataConfig
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


def _row(sample: _Sample, path: str, index: int, config: DataConfig) -> RawRow:
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


def _is_whole(sample: _Sample, path: str, index: int, config: DataConfig) -> bool:
    """Whether the last sample before a cut can be used without what is lost; else the two are one row."""
    row = _row(sample, path, index, config) if sample.read else next(read_shard(path, config, index, index + 1))
    return row.error is None


def _check_merged(sample: _Sample, config: DataConfig) -> None:
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


def _json(sample: _Sample, config: DataConfig) -> dict[str, Any]:
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


def _caption(sample: _Sample, meta: dict[str, Any], config: DataConfig) -> object:
    for name in suffix_names(config.caption_key):
        value = meta.get(name[5:]) if name.startswith("json.") else sample.fields.get(name)
        if value is not None:
            return value
    return None
