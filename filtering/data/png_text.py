"""PNGs whose text or colour profile is larger than Pillow reads: the same picture without it.

Programs that draw images write their whole workflow into text chunks. Pillow refuses a picture with one that unpacks
to more than 1 MiB; none of them changes a pixel that is trained on.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

__all__ = ["without_large_text"]

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
MAX_CHUNK: Final = 2**18
"""Unpacked bytes of a chunk that is kept: orientation can stand in a small one."""
MAX_TEXT: Final = 2**22
"""Unpacked bytes of all chunks that are kept."""
MAX_CHUNKS: Final = 2**16
"""A PNG of more pieces is left as it is."""
_KINDS: Final = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def without_large_text(data: bytes) -> bytes | None:
    """``data`` without its large text and profile chunks; None where it is no PNG, or has none to leave out.

    What stays is copied byte by byte, and no chunk is unpacked beyond ``MAX_CHUNK`` bytes.
    """
    if not data.startswith(SIGNATURE):
        return None
    kept, left_out, total = [SIGNATURE], False, 0
    for kind, chunk in _chunks(data):
        if len(kept) > MAX_CHUNKS:
            return None
        if kind in _KINDS:
            size = _unpacked(kind, chunk[8:-4])
            total += size
            if size > MAX_CHUNK or total > MAX_TEXT:
                total -= size
                left_out = True
                continue
        kept.append(chunk)
    return b"".join(kept) if left_out else None


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(kind, whole chunk) in order; the last one is what is left of a file that was cut off."""
    place = len(SIGNATURE)
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], data[place:end]
        place = end


def _unpacked(kind: bytes, body: bytes) -> int:
    """Bytes that the chunk's text unpacks to, as far as ``MAX_CHUNK`` and one; those of the chunk where it is more."""
    _, _, rest = body.partition(b"\0")
    packed = b""
    if kind in (b"zTXt", b"iCCP"):
        packed = rest[1:]
    elif kind == b"iTXt" and rest[:1] == b"\1":
        packed = rest[2:].split(b"\0", 2)[-1]
    if not packed or len(body) > MAX_CHUNK:
        return len(body)
    try:
        return max(len(body), len(zlib.decompressobj().decompress(packed, MAX_CHUNK + 1)))
    except zlib.error:
        return len(body)
