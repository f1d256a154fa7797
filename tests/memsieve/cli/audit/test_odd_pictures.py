"""Broken, blank, transparent and animated pictures, all the way: each is a row with a reason, and no group for it."""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

from memsieve.filtering.data.rows import content_id
from tests.filtering.audit.test_group_check import Coarse, file_of
from tests.filtering.audit.test_joining import shard
from tests.filtering.identity.test_descriptors import scene
from tests.memsieve.auditing import run

BLANK, ICONS, BROKEN, MOVING = (
    ("white", "jpeg", "black"),
    ("disc", "bar", "frame"),
    ("text", "cut", "empty"),
    ("a", "b"),
)


def icon(kind: str) -> bytes:
    """White on a transparent ground."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    pen, white = ImageDraw.Draw(image), (255,) * 4
    if kind == "disc":
        pen.ellipse((12, 12, 52, 52), fill=white)
    elif kind == "bar":
        pen.rectangle((4, 26, 60, 36), fill=white)
    else:
        pen.rectangle((6, 6, 58, 58), outline=white, width=7)
    return file_of(image)


def moving(first: Image.Image, then: int) -> bytes:
    stream = io.BytesIO()
    first.save(stream, "GIF", save_all=True, append_images=[scene(then, 96)], duration=100)
    return stream.getvalue()


def saved(image: Image.Image, kind: str) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def pictures() -> dict[str, Image.Image | bytes]:
    white = Image.new("RGB", (64, 64), "white")
    found: dict[str, Image.Image | bytes] = {"text": b"no picture", "cut": file_of(scene(5, 96))[:400], "empty": b""}
    found |= {"white": white, "jpeg": saved(white.resize((80, 48)), "JPEG"), "black": Image.new("L", (64, 64), 0)}
    found |= {kind: icon(kind) for kind in ICONS}
    found |= {"a": moving(scene(1, 96), 2), "b": moving(scene(3, 96), 4)}
    return found | {"photo": scene(0, 96), "again": saved(scene(0, 96), "JPEG")}


@pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")
def test_each_is_a_row_with_a_reason_and_stands_alone(pictures: dict[str, Image.Image | bytes], tmp_path: Path) -> None:
    names = shard(tmp_path / "0.tar", pictures)
    torch.jit.script(Coarse()).save(str(tmp_path / "coarse.pt"))
    (tmp_path / "coarse.json").write_text('{"side": 48, "mean": [0, 0, 0], "std": [1, 1, 1]}')
    audit = tmp_path / "audit"
    words = ("--data-only", "--describe", tmp_path / "coarse.pt", "--out", audit)
    assert run("score", "--data", tmp_path / "0.tar", *words).exit_code == 0
    (file,) = (audit / "scores").glob("*.parquet")
    rows = {row["key"]: row for row in pq.read_table(file).to_pylist()}
    assert set(rows) == set(pictures)
    for key in BROKEN:
        assert rows[key]["status"] != "ok" and rows[key]["error"] and rows[key]["descriptor_coarse"] is None, key
    for key in BLANK:
        assert (rows[key]["status"], rows[key]["not_described"], rows[key]["descriptor_coarse"]) == ("ok", "flat", None)
    for key in (*ICONS, *MOVING, "photo", "again"):
        assert rows[key]["not_described"] is None and rows[key]["descriptor_coarse"] is not None, key
    table = tmp_path / "groups.parquet"
    for by in (("--by", "coarse", "--threshold", 0.97), ("--by", "phash")):
        assert run("groups", audit, "--out", table, *by).exit_code == 0
        found = set(pq.read_table(table)["content"].to_pylist())
        assert found == {names["photo"], names["again"]}, by
    assert run("report", audit).exit_code in (0, 3)
    summary, page = json.loads((audit / "summary.json").read_text()), (audit / "report.html").read_text()
    assert summary["failed"] == len(BROKEN) and summary["not_described"] == {"flat": len(BLANK)}
    assert "3 of one colour (flat)" in page and all(f"<code>{key}</code>" in page for key in BROKEN)
    assert run("review", table).exit_code == 0
    assert content_id(file_of(scene(0, 96))) in table.with_suffix(".html").read_text()
