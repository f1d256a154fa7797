"""New shards join the groups that there are: whoever stood somewhere stays there."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from memsieve.filtering.audit.group_files import GroupsFile
from memsieve.filtering.audit.groups import Alike, group_audit
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.identity.edits import edited
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.test_group_check import Coarse, file_of
from tests.filtering.audit.written import row, write_audit
from tests.filtering.identity.test_descriptors import scene

Audit = Callable[..., Outcome]
COARSE = Alike("coarse", 0.97)
faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")


def shard(path: Path, pictures: dict[str, Image.Image | bytes], caption: str = "a scene") -> dict[str, str]:
    """A tar of ``pictures``; key -> content id."""
    found = {}
    with tarfile.open(path, "w") as tar:
        for key, picture in pictures.items():
            image = picture if isinstance(picture, bytes) else file_of(picture)
            for suffix, data in (("png", image), ("txt", caption.encode())):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            found[key] = content_id(image)
    return found


@pytest.fixture
def coarse(tmp_path: Path) -> str:
    torch.jit.script(Coarse()).save(str(tmp_path / "coarse.pt"))
    (tmp_path / "coarse.json").write_text(json.dumps({"side": 48, "mean": [0, 0, 0], "std": [1, 1, 1]}))
    return str(tmp_path / "coarse.pt")


def groups_in(file: Path) -> dict[str, str]:
    table = pq.read_table(file)
    return dict(zip(table["content"].to_pylist(), table["group"].to_pylist(), strict=True))


@faiss
def test_a_grown_audit_joins_its_table_and_nobody_moves(audit: Audit, coarse: str, tmp_path: Path) -> None:
    data, run, table = tmp_path / "data", tmp_path / "run", tmp_path / "groups.parquet"
    data.mkdir()
    first = {"a": scene(0, 96), "a2": edited("mirror", scene(0, 96), [0]), "b": scene(1, 96)}
    names = shard(data / "5.tar", first)
    audit(data, run, model=False, describe=[coarse])
    group_audit(run, table, COARSE)
    before = pq.read_table(table)
    # The new shard stands before the old one; read so, b's edit would lead.
    more = {"b2": edited("JPEG 30", scene(1, 96), [1]), "a3": edited("half size", scene(0, 96), [0]),
            "c": scene(2, 96), "c2": edited("mirror", scene(2, 96), [2]), "a": scene(0, 96)}  # fmt: skip
    names |= shard(data / "1.tar", more)
    audit(data, run, model=False, describe=[coarse])
    found = group_audit(run, table, onto=GroupsFile.read(table, "--onto"))
    assert (found.images, found.joining, found.joined, found.groups) == (4, 3, 7, 3)
    after = groups_in(table)
    assert {content: after[content] for content in before["content"].to_pylist()} == groups_in_table(before)
    assert after[names["a3"]] == names["a"] and after[names["c2"]] == after[names["c"]] == names["c"]
    assert after[names["b2"]] == after[names["b"]] == names["b"], "who was alone leads on"
    assert pq.read_table(table)["key"].to_pylist()[:2] == ["a", "a2"]
    again = group_audit(run, table, onto=GroupsFile.read(table, "--onto"))
    assert (again.images, again.joined) == (0, 7) and groups_in(table) == after


def groups_in_table(table: Any) -> dict[str, str]:
    return dict(zip(table["content"].to_pylist(), table["group"].to_pylist(), strict=True))


@faiss
def test_another_audit_joins_a_table_while_what_it_was_made_of_is_there(
    audit: Audit, coarse: str, tmp_path: Path
) -> None:
    table = tmp_path / "groups.parquet"
    names = shard(tmp_path / "0.tar", {"a": scene(0, 96), "b": scene(1, 96)})
    names |= shard(tmp_path / "1.tar", {"a2": edited("mirror", scene(0, 96), [0]), "b": scene(1, 96)})
    for number in range(2):
        audit(tmp_path / f"{number}.tar", tmp_path / f"run{number}", model=False, describe=[coarse])
    assert group_audit(tmp_path / "run0", table, COARSE).joined == 0
    onto = GroupsFile.read(table, "--onto")
    found = group_audit(tmp_path / "run1", tmp_path / "both.parquet", onto=onto)
    assert (found.images, found.joining) == (1, 1), "b is known by the other audit"
    assert groups_in(tmp_path / "both.parquet") == {names["a"]: names["a"], names["a2"]: names["a"]}
    assert len(GroupsFile.read(tmp_path / "both.parquet", "--onto").made.audits) == 2
    torch.jit.script(torch.nn.Flatten()).save(coarse)
    audit(tmp_path / "1.tar", tmp_path / "other", model=False, describe=[coarse])
    with pytest.raises(SettingsError, match="the audit's descriptor is another one"):
        group_audit(tmp_path / "other", tmp_path / "x.parquet", onto=onto)
    (tmp_path / "run0").rename(tmp_path / "away")
    with pytest.raises(SettingsError, match="which is not there: put it back"):
        group_audit(tmp_path / "run1", tmp_path / "x.parquet", onto=onto)
    pq.write_table(pq.read_table(table).replace_schema_metadata(None), table)
    with pytest.raises(SettingsError, match="was not made by this version's audit groups"):
        GroupsFile.read(table, "--onto")


def test_hashes_go_on_too(tmp_path: Path) -> None:
    old = [row("a", phash="0f" * 8), row("b", phash="0f" * 7 + "08"), row("c", phash="5a" * 8)]
    new = [row("d", phash="0f" * 7 + "0b"), row("e", phash="5a" * 7 + "58"), row("f", phash="33" * 8)]
    table = tmp_path / "groups.parquet"
    group_audit(write_audit(tmp_path / "old", old), table, Alike(threshold=2, mirrored=False))
    assert groups_in(table) == {}
    found = group_audit(write_audit(tmp_path / "new", new), table, onto=GroupsFile.read(table, "--onto"))
    name = {one: one.encode().hex().ljust(32, "0") for one in "abcdef"}
    assert groups_in(table) == {name["c"]: name["c"], name["e"]: name["c"], name["a"]: name["a"], name["d"]: name["a"]}
    assert (found.images, found.joining) == (3, 2)


def test_groups_by_caption_are_of_different_images_and_go_on(tmp_path: Path) -> None:
    old = [row("a", caption="x", caption_hash="X"), row("b", caption="x", caption_hash="X"), row("a"),
           row("c", caption="y", caption_hash="Y"), row("d", caption="", caption_hash="E"),
           row("e", caption="", caption_hash="E")]  # fmt: skip
    table = tmp_path / "groups.parquet"
    found = group_audit(write_audit(tmp_path / "old", old), table, Alike("caption"))
    name = {one: one.encode().hex().ljust(32, "0") for one in "abcdefg"}
    assert groups_in(table) == {name["a"]: name["a"], name["b"]: name["a"]}, "no caption is nobody's"
    assert (found.images, found.joining) == (3, 1) and pq.read_table(table)["threshold"].null_count == 2
    new = [row("f", caption="y", caption_hash="Y"), row("g", caption="x", caption_hash="X"), row("b")]
    group_audit(write_audit(tmp_path / "new", new), table, onto=GroupsFile.read(table, "--onto"))
    assert {one for one, group in groups_in(table).items() if group == name["a"]} == {name[one] for one in "abg"}
    assert groups_in(table)[name["f"]] == groups_in(table)[name["c"]] == name["c"]
