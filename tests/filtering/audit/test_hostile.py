"""Broken and hostile shards: every sample ends as a row with a status, in bounded memory and time."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import pickle
import resource
import struct
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.status import audit_status
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.fields import STATUSES
from memsieve.filtering.data.shards import read_shard

Audit = Callable[..., Outcome]
Read = Callable[[Path], pa.Table]
CONFIG = DataConfig(path="x", resolution=16)


def pack(parts: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as tar:
        for name, data in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def encoded(format: str, mode: str = "RGB", size: tuple[int, int] = (20, 16), **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 4), dtype=np.uint8)
    image = Image.fromarray(pixels, "RGBA").convert(mode)
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of 70 bytes whose header promises width x height pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def animated() -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "green", "blue")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def sixteen_bit() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 150).save(stream, "PNG")
    return stream.getvalue()


class Explodes:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_images_of_all_kinds(audit: Audit, tmp_path: Path, read_rows: Read) -> None:
    good = {
        "cmyk": encoded("JPEG", "CMYK"),
        "palette": encoded("PNG", "P"),
        "grey": encoded("PNG", "L"),
        "alpha": encoded("PNG", "RGBA"),
        "webp": encoded("WEBP"),
        "animated": animated(),
        "sixteen": sixteen_bit(),
    }
    bad = {
        "huge": png_claiming(50_000, 50_000),
        "cut_jpeg": encoded("JPEG")[:300],
        "cut_png": encoded("PNG")[:300],
        "cut_webp": encoded("WEBP")[:100],
        "garbage": bytes(range(256)) * 4,
        "zero": b"",
        "svg": b"<svg onload='alert(1)'/>",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }
    parts: dict[str, bytes] = {}
    for key, data in {**good, **bad}.items():
        parts |= {f"{key}.jpg": data, f"{key}.txt": b"a caption"}
    (tmp_path / "a.tar").write_bytes(pack(parts))
    audit(tmp_path / "a.tar", tmp_path / "run", draws=1)
    rows = {row["key"]: row for row in read_rows(tmp_path / "run").to_pylist()}
    assert list(rows) == [*good, *bad]
    for key in good:
        assert rows[key]["status"] == "ok" and rows[key]["n_draws"] == 1, rows[key]
    for key in bad:
        assert rows[key]["status"] in ("bad_image", "no_image") and rows[key]["error"], rows[key]
    assert "2500000000 pixels" in rows["huge"]["error"], "by its header, not by decoding it"


def test_captions_names_and_members_of_all_kinds(
    audit: Audit, tmp_path: Path, read_rows: Read, png: Callable[[int], bytes]
) -> None:
    image = png(1)
    trap = tmp_path / "trap"
    html = "<script>alert(1)</script> \x00\x07\x1b[31m \u202e"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:

        def add(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, link
            tar.addfile(info, io.BytesIO(data))

        def pair(key: str, caption: bytes = b"a caption", data: bytes = image) -> None:
            add(f"{key}.png", data)
            add(f"{key}.txt", caption)

        pair("html", html.encode())
        pair("long", b"x" * 2**20)
        pair("latin", b"caf\xe9")
        pair("/etc/passwd")
        pair("../../up")
        pair("pickled", data=image)
        add("pickled.pkl", pickle.dumps(Explodes(trap)))
        add("pickled.pyd", pickle.dumps(Explodes(trap)))
        add("captionless.png", image)
        add("imageless.txt", b"words")
        add("link.png", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add("link.txt", b"words")
        add("device.png", kind=tarfile.CHRTYPE)
        add("device.txt", b"words")
        add("img.v1.png", image)
        add("img.v2.png", image)
        add("img.txt", b"words")
        add("twice.png", image)
        add("twice.png", image)
        add("twice.txt", b"words")
        pair("apart")
        pair("between")
        add("apart.json", b"{}")
        pair("json", b"words")
        add("json.json", b"[" * 100_000)
        pair("last")
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    audit(tmp_path / "a.tar", tmp_path / "run", draws=1)
    table = read_rows(tmp_path / "run").to_pylist()
    found = {f"{row['key']}/{row['index']}": row["status"] for row in table}
    assert list(found.values()) == [
        "ok", "bad_caption", "bad_caption", "ok", "ok", "ok", "no_caption", "no_image", "bad_sample", "bad_sample",
        "bad_sample", "bad_sample", "ok", "ok", "bad_sample", "ok", "ok",
    ], found  # fmt: skip
    assert all(bool(row["error"]) == (row["status"] != "ok") for row in table)
    assert table[0]["caption"] == html.strip() and table[3]["key"] == "/etc/passwd" and table[4]["key"] == "../../up"
    assert not trap.exists(), "something was unpickled"
    status = audit_status(tmp_path / "run")
    assert (status.rows, status.failed, status.complete) == (17, 9, True)


def test_broken_shards_beside_good_ones(
    audit: Audit, tmp_path: Path, read_rows: Read, make_shards: Callable[..., Path]
) -> None:
    data = make_shards(tmp_path / "data", 24, per_shard=8)
    whole = (data / "00001.tar").read_bytes()
    (data / "00001.tar").write_bytes(whole[: len(whole) // 2])
    (data / "00003.tar").write_bytes(b"")
    (data / "00004.tar").write_bytes(np.random.default_rng(0).bytes(5000))
    (data / "00005.tar").write_bytes(bytes(10240))
    (data / "00006.tar.gz").write_bytes(gzip.compress(whole)[:-200])
    audit(f"{data}::{data / '00006.tar.gz'}", tmp_path / "run", draws=1)
    status = audit_status(tmp_path / "run")
    assert status.complete and status.counts["truncated"] == 4
    rows = read_rows(tmp_path / "run").to_pylist()
    by_shard = {
        name: [r for r in rows if r["shard"].endswith(name)] for name in ("00000.tar", "00001.tar", "00003.tar")
    }
    assert len(by_shard["00000.tar"]) == 8
    assert [r["status"] for r in by_shard["00001.tar"]][-1] == "truncated" and len(by_shard["00001.tar"]) >= 4
    assert [r["status"] for r in by_shard["00003.tar"]] == ["truncated"]


def test_a_shard_that_cannot_be_reached_is_no_result(
    audit: Audit, tmp_path: Path, make_shards: Callable[..., Path]
) -> None:
    """A disk or network that fails says nothing of the samples: not done, the others are, and it is tried again."""
    data = make_shards(tmp_path / "data", 24, per_shard=8)
    hidden = data / "00001.tar"

    def vanish(plan: Any) -> None:
        hidden.rename(data / "away")

    outcome = audit(data, tmp_path / "run", model=False, begin=vanish)
    assert len(outcome.done) == 2 and "00001.tar' cannot be reached" in outcome.failed[str(hidden)]
    assert audit_status(tmp_path / "run").counts["missing"] == 1
    (data / "away").rename(hidden)
    assert list(audit(data, tmp_path / "run", model=False).done) == [str(hidden)]


def header(size: bytes, kind: bytes = b"0", name: bytes = b"a.png") -> bytes:
    """A tar header with a size field of one's own, its checksum right."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136], block[136:148], block[148:156] = size.ljust(12, b"\0"), b"00000000000\0", b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def negative(value: int) -> bytes:
    return b"\xff" + (256**11 + value).to_bytes(11, "big")


def pax(records: dict[str, str]) -> bytes:
    body = b""
    for name, value in records.items():
        line = f" {name}={value}\n"
        size = len(line) + len(str(len(line) + 2))
        body += f"{size}{line}".encode()
    return header(f"{len(body):011o}".encode(), b"x", b"pax") + body + bytes(-len(body) % 512)


BOMBS = {
    "negative size": header(negative(-512)) * 3,
    "negative size in pax": pax({"size": "-1024"}) + header(b"00000000000"),
    "endless extended headers": header(b"00000000000", b"x") * 3000,
    "endless long names": (header(b"00000000005", b"L") + b"name\0".ljust(512, b"\0")) * 3000,
    "huge extended header": header(b"77777777777", b"x") + bytes(4096),
    "huge size": header(b"77777777777") + bytes(4096),
    "huge base-256 size": header(b"\x80" + b"\xff" * 11) + bytes(4096),
    "sparse map without end": header(b"00000001000", b"S") + bytes(4096),
    "pax sparse": pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "b.png",
                       "GNU.sparse.realsize": "99999999999"}) + header(b"00000001000") + b"999999999\n" * 51 + b"xx",
    "not a number": header(b"zzzzzzzzzzz"),
    "one key, many files": b"".join(header(b"00000000000", name=f"k.s{i}".encode()) for i in range(5000)),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.timeout(20)
def test_tars_made_to_hang_or_to_fill_the_memory(name: str, tmp_path: Path) -> None:
    first = pack({"good.png": b"x", "good.txt": b"y"}).rstrip(b"\0")
    first += bytes(-len(first) % 512)
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in (BOMBS[name], first + BOMBS[name]):
        (tmp_path / "a.tar").write_bytes(data)
        rows = list(read_shard(str(tmp_path / "a.tar"), CONFIG))
        assert rows and rows[-1].error, "the damage is a row"
        assert all(row.status in STATUSES for row in rows)
    assert rows[0].key == "good" and rows[0].error is None
    assert time.monotonic() - started < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def mutations(seed: int, count: int) -> Iterator[bytes]:
    """Damaged tars: bytes flipped, blocks cut out, doubled, swapped or zeroed, header fields overwritten."""
    rng = np.random.default_rng(seed)
    image = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(image, "PNG")
    seeds = []
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        parts: dict[str, bytes] = {}
        for i in range(4):
            key = f"{'k' * (150 if i == 2 and format != tarfile.USTAR_FORMAT else 3)}{i}"
            parts |= {f"{key}.png": image.getvalue(), f"{key}.txt": f"caption {i}".encode()}
            parts |= {f"{key}.json": json.dumps({"uid": f"{i:032x}"}).encode()}
        seeds.append(pack(parts, format).rstrip(b"\0") + bytes(1024 + 300))
    seeds.append(gzip.compress(seeds[0]))
    for _ in range(count):
        data = bytearray(seeds[int(rng.integers(len(seeds)))])
        for _ in range(int(rng.integers(1, 5))):
            where, block = int(rng.integers(len(data))), int(rng.integers(max(len(data) // 512, 1))) * 512
            match int(rng.integers(8)):
                case 0:
                    data[where] = int(rng.integers(256))
                case 1:
                    data[where : where + int(rng.integers(1, 600))] = b""
                case 2:
                    data = data[: max(where, 1)]
                case 3:
                    data[block:block] = data[block : block + 512]
                case 4:
                    data[block : block + 512] = bytes(512)
                case 5:  # the size field of what may be a header, the checksum repaired
                    field = [b"77777777777\0", negative(-int(rng.integers(1, 4096))), b"0000000000\0\0"][
                        int(rng.integers(3))
                    ]
                    data[block + 124 : block + 136] = field
                    fix_checksum(data, block)
                case 6:  # another kind of member
                    data[block + 156 : block + 157] = b"0125xgLKSDV"[(k := int(rng.integers(11))) : k + 1]
                    fix_checksum(data, block)
                case _:
                    data[where : where + 4] = rng.bytes(4)
            if not data:
                data = bytearray(b"\0")
        yield bytes(data)


def fix_checksum(data: bytearray, block: int) -> None:
    if len(data) < block + 512:
        return
    data[block + 148 : block + 156] = b" " * 8
    data[block + 148 : block + 156] = f"{sum(data[block : block + 512]):06o}\0 ".encode()[:8]


def fuzz(tmp_path: Path, seed: int, count: int) -> None:
    """No input crashes or hangs the reader; rows are numbered without a gap; undamaged samples before the first
    damaged byte are all there; a shard that is not whole says so in a row."""
    path = tmp_path / "a.tar"
    for number, data in enumerate(mutations(seed, count)):
        path.write_bytes(data)
        rows = list(read_shard(str(path), CONFIG))
        where = f"seed {seed}, input {number}"
        assert [row.index for row in rows] == list(range(len(rows))), where
        assert all((row.error is None) == (row.status == "ok") and row.status in STATUSES for row in rows), where
        assert rows or is_empty_archive(data), f"{where}: nothing was said"
        for row in rows:
            if row.error is None and row.span[1]:
                assert row.image and row.caption and row.span[0] < row.span[1], where


def is_empty_archive(data: bytes) -> bool:
    """Two zero blocks at the start, or nothing that names a sample."""
    with contextlib.suppress(OSError, EOFError, zlib.error):
        data = gzip.decompress(data)
    if data[:512] == bytes(512):
        return True
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return not any("." in info.name.rpartition("/")[2] and not info.isdir() for info in tar)


def test_fuzzed_tars(tmp_path: Path) -> None:
    fuzz(tmp_path, seed=1, count=600)


@pytest.mark.slow
def test_fuzzed_tars_at_length(tmp_path: Path) -> None:
    for seed in range(2, 12):
        fuzz(tmp_path, seed=seed, count=2000)


def test_a_cut_loses_no_sample_before_it(tmp_path: Path, make_shards: Callable[..., Path]) -> None:
    """Cut at every 97th byte: the samples that are whole before the cut are rows, and one more row tells of the cut."""
    data = (make_shards(tmp_path / "data", 6, per_shard=8) / "00000.tar").read_bytes()
    whole = list(read_shard(str(tmp_path / "data" / "00000.tar"), CONFIG))
    end = whole[-1].span[1]
    for cut in range(1, end + 1023, 97):
        (tmp_path / "cut.tar").write_bytes(data[:cut])
        rows = list(read_shard(str(tmp_path / "cut.tar"), CONFIG))
        before = [row for row in whole if row.span[1] <= cut]
        assert [row.key for row in rows[: len(before)]][:-1] == [row.key for row in before][:-1], cut
        assert sum(row.error is None for row in rows) >= len(before) - 1, cut
        assert rows[-1].status == "truncated" or cut >= end + 512, cut
