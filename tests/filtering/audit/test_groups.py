"""Near-duplicates of an audit as groups for the filter."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy as np
import pytest
import webdataset
from PIL import Image, ImageEnhance, ImageOps

from memsieve.filtering.audit.groups import Alike, group_audit
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.data.group_table import group_table
from memsieve.filtering.data.openmoji import draw_pictures
from memsieve.filtering.data.openmoji.names import list_emoji, miniature
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.identity.phash import joined
from memsieve.filtering.settings import SettingsError

Audit = Callable[..., Outcome]


def looks(pngs: list[bytes]) -> np.ndarray:
    images = [Image.open(io.BytesIO(png)).convert("RGB") for png in pngs]
    return np.array([int(str(imagehash.phash(image)), 16) for image in images], dtype=np.uint64)


@pytest.fixture(scope="module")
def emoji() -> list[bytes]:
    pictures, _ = draw_pictures(miniature(list_emoji(), 0, 160), 64, True, None)
    return [picture.png for picture in pictures if picture.vivid]


def mirror_of(png: bytes) -> bytes:
    stream = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(png)).convert("RGB")).save(stream, "PNG")
    return stream.getvalue()


def recoloured(png: bytes, brightness: float) -> bytes:
    stream = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    ImageEnhance.Brightness(image).enhance(brightness).save(stream, "PNG")
    return stream.getvalue()


def recompressed(png: bytes, quality: int) -> bytes:
    stream, again = io.BytesIO(), io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(stream, "JPEG", quality=quality)
    Image.open(stream).convert("RGB").save(again, "PNG")
    return again.getvalue()


def test_near_duplicates_of_an_audit_are_one_group(emoji: list[bytes], audit: Audit, tmp_path: Path) -> None:
    ways = [mirror_of, lambda png: recompressed(png, 80), lambda png: recoloured(png, 0.9)]
    first = joined(looks(emoji), 10)
    different = [png for i, png in enumerate(emoji) if first[i] == i][:12]
    copies = {content_id(way(png)): content_id(png) for png in different for way in ways}
    rows = [*different, *[way(png) for way in ways for png in different], different[0]]
    (tmp_path / "data").mkdir()
    with webdataset.TarWriter(str(tmp_path / "data" / "00000.tar")) as tar:
        for i, png in enumerate(rows):
            tar.write({"__key__": f"{i:03d}", "png": png, "txt": b"a"})
    audit(tmp_path / "data" / "00000.tar", tmp_path / "run", model=False, data={"resolution": 64})
    found = group_audit(tmp_path / "run", tmp_path / "groups.parquet")
    table = group_table(str(tmp_path / "groups.parquet"))
    assert found.images == len({content_id(png) for png in rows}) == 48
    assert sum(table.get(copy) == original for copy, original in copies.items()) >= 27
    assert all(table[group] == group for group in table.values()) and found.joined == len(table)
    assert found.groups == len(set(table.values())) and found.largest == 4
    plain = group_audit(tmp_path / "run", tmp_path / "plain.parquet", Alike(mirrored=False))
    assert plain.joined < found.joined, "a mirrored image is another one"
    for bad, said in (
        ({"out": tmp_path / "groups.csv"}, "must end in .parquet"),
        ({"alike": Alike(threshold=40)}, "between 0 and 16"),
    ):
        with pytest.raises(SettingsError, match=said):
            group_audit(tmp_path / "run", **{"out": tmp_path / "x.parquet", **bad})
