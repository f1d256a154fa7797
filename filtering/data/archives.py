"""Tar archives of unknown origin: opened from disk, URLs or commands, walked within bounds, named by identity."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import tarfile
import tempfile
import zlib
from typing import IO, Any, cast

import fsspec
from fsspec.core import url_to_fs

from memsieve.filtering.extras import install
from memsieve.filtering.settings import SettingsError

__all__ = ["DAMAGE", "BoundedTarInfo", "check_protocol", "is_damage", "open_archive", "open_tar", "shard_identity"]

MAX_HEADER_BYTES = 2**16
"""Extended headers (long names, pax records) larger than this are refused: tarfile reads them whole."""
MAX_HEADERS = 64
"""Extended headers in a row; tarfile handles each by recursion."""
SPOOL_BYTES = 64 * 2**20
_EXTENDED = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
# What tarfile and the decompressors raise on damaged bytes: int() and split() of its header fields give ValueError,
# an offset beyond 64 bits OverflowError. OSError also stands for a disk or network that fails: see is_damage.
DAMAGE = (
    tarfile.TarError,
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    ValueError,
    OverflowError,
    IndexError,
    KeyError,
)


_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
"""Extras of memsieve that bring what a kind of URL needs."""


class BoundedTarInfo(tarfile.TarInfo):
    """Refuses what tarfile would follow without bound: huge or endless extended headers, sizes below zero (which send
    it back to a header it has read, for ever)."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0:
            raise tarfile.ReadError(f"member '{self.name[:100]}' has a size below zero")
        if self.type in _EXTENDED:
            if self.size > MAX_HEADER_BYTES:
                raise tarfile.ReadError(f"an extended header has {self.size} bytes, over {MAX_HEADER_BYTES}")
            depth = getattr(archive, "_extended_headers", 0) + 1
            if depth > MAX_HEADERS:
                raise tarfile.ReadError(f"more than {MAX_HEADERS} extended headers in a row")
            cast("Any", archive)._extended_headers = depth
        else:
            cast("Any", archive)._extended_headers = 0
        # A name ends at its first NUL in a plain header, but can hold one in a pax record.
        member = cast("tarfile.TarInfo", super()._proc_member(archive))  # type: ignore[misc]
        if member.size < 0:
            raise tarfile.ReadError(f"member '{member.name[:100]}' has a size below zero")
        return member


def check_protocol(url: str, option: str) -> None:
    """See that fsspec can read URLs like ``url`` here.

    Raises:
        SettingsError: there is no such kind of URL, or a package that it needs is not installed.
    """
    protocol = url.partition("://")[0]
    try:
        fsspec.get_filesystem_class(protocol.split("::")[-1])
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        way = f": {install(extra)}" if extra else f" ({error})"
        raise SettingsError(f"{option} = '{url}': {protocol}:// needs a package that is not installed{way}") from None
    except ValueError:
        raise SettingsError(
            f"{option} = '{url}': {protocol}:// is no kind of URL that fsspec knows; use s3://, gs://, https://, "
            "hf://, or a path"
        ) from None


def open_archive(path: str, allow_pipe: bool = False) -> IO[bytes]:
    """The bytes of ``path``, seekable: a local file, an fsspec URL, or the output of ``pipe:COMMAND``.

    A command's output is spooled to a temporary file, so that a command that fails half-way is seen as failed and not
    as a short archive.

    Raises:
        OSError: it cannot be opened, or the command fails.
    """
    if path.startswith("pipe:"):
        if not allow_pipe:
            raise PermissionError(f"'{path}' would run a command; allow it with --allow-pipe (data.allow_pipe: true)")
        return _run(path.removeprefix("pipe:").strip())
    if "://" in path:
        return cast("IO[bytes]", fsspec.open(path, "rb").open())
    return open(path, "rb")


def _run(command: str) -> IO[bytes]:
    spool = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115, handed to the caller
    # A shell, since that is what 'pipe:' means in WebDataset; only reached where the user allowed it.
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while block := process.stdout.read(2**20):
            spool.write(block)
    if process.returncode:
        spool.close()
        raise OSError(process.returncode, f"command '{command}' failed with exit code {process.returncode}")
    spool.seek(0)
    return cast("IO[bytes]", spool)


def open_tar(file: IO[bytes]) -> tarfile.TarFile:
    """A tar reader over ``file``, its compression found out, its headers bounded."""
    return tarfile.open(fileobj=file, mode="r:*", tarinfo=BoundedTarInfo)


def is_damage(error: BaseException) -> bool:
    """Whether ``error`` speaks of the bytes of an archive, rather than of the disk or network they came over."""
    if isinstance(error, gzip.BadGzipFile):
        return True
    # bz2 says 'Invalid data stream' by an OSError without a number; what the system says has one.
    return not isinstance(error, OSError) or (error.errno is None and _from_decompressor(error))


def _from_decompressor(error: OSError) -> bool:
    trace, modules = error.__traceback__, {bz2.__name__, gzip.__name__, lzma.__name__, "_compression", "tarfile"}
    last = ""
    while trace is not None:
        last, trace = str(trace.tb_frame.f_globals.get("__name__")), trace.tb_next
    return last in modules


def shard_identity(path: str) -> dict[str, Any]:
    """What tells whether the shard at ``path`` is the one that was read before; plain values.

    Local files: size in bytes and time of change in ns. URLs: the file system's own token (ETag, checksum or time),
    and the size. A command has none, and is taken for unchanged.

    Raises:
        OSError: it is not there, or cannot be reached.
    """
    if path.startswith("pipe:"):
        return {"command": path}
    if "://" in path:
        system, name = url_to_fs(path)
        return {"size": system.info(name).get("size"), "token": str(system.ukey(name))}
    found = os.stat(path)
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns}
