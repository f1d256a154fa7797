"""What a person has split and joined: checked, and done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memsieve.filtering.audit import group_decisions
from memsieve.filtering.audit.group_decisions import FORMAT, Decisions, decided, read_decisions
from memsieve.filtering.audit.group_files import GROUPS_SCHEMA, GroupsFile
from memsieve.filtering.audit.groups import Alike, group_audit
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.written import row, write_audit

NAME = {one: one.encode().hex().ljust(32, "0") for one in "abcdefgh"}
LETTER = {name: one for one, name in NAME.items()}


def one_row(letter: str, leader: str) -> dict[str, Any]:
    found = dict.fromkeys(GROUPS_SCHEMA.names)
    return found | {"content": NAME[letter], "group": NAME[leader], "leader": NAME[leader], "likeness": 0.9}


def after(split: str = "", join: tuple[str, ...] = (), alone: str = "") -> dict[str, str]:
    """Image -> group, of abc, de and who stands alone."""
    table = pa.Table.from_pylist([one_row(x, "a") for x in "abc"] + [one_row(x, "d") for x in "de"], GROUPS_SCHEMA)
    decisions = Decisions(tuple(NAME[x] for x in split), tuple((NAME[x], NAME[y]) for x, y in join))
    found = decided(table, decisions, {NAME[x]: one_row(x, x) for x in alone})
    assert found.schema.equals(GROUPS_SCHEMA)
    pairs = zip(found["content"].to_pylist(), found["group"].to_pylist(), strict=True)
    return {LETTER[content]: LETTER[group] for content, group in pairs}


@pytest.mark.parametrize(
    ("split", "join", "alone", "groups"),
    [
        ("", (), "", {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d"}),
        ("c", (), "", {"a": "a", "b": "a", "d": "d", "e": "d"}),
        ("a", (), "", {"b": "b", "c": "b", "d": "d", "e": "d"}),
        ("e", (), "", {"a": "a", "b": "a", "c": "a"}),
        ("abc", (), "", {"d": "d", "e": "d"}),
        ("", ("eb",), "", {"a": "d", "b": "d", "c": "d", "d": "d", "e": "d"}),
        ("", ("fg",), "fg", {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d", "f": "f", "g": "f"}),
        ("c", ("dc", "fb"), "f", {"a": "f", "b": "f", "f": "f", "d": "d", "e": "d", "c": "d"}),
        ("f", ("ab",), "f", {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d"}),
    ],
)
def test_split_comes_first_and_groups_join_whole(
    split: str, join: tuple[str, ...], alone: str, groups: dict[str, str]
) -> None:
    assert after(split, join, alone) == groups


def test_a_leader_that_leaves_is_followed_by_another_one() -> None:
    table = pa.Table.from_pylist([one_row(x, "a") for x in "abc"], GROUPS_SCHEMA)
    found = decided(table, Decisions((NAME["a"],)), {}).to_pylist()
    assert {(LETTER[r["content"]], LETTER[r["leader"]], r["likeness"]) for r in found} == {("b", "b", None),
                                                                                         ("c", "b", None)}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([], "its format is not"),
        ({"format": "x"}, "its format is not"),
        ({"format": FORMAT, "splits": []}, "it says 'splits', which is not known"),
        ({"format": FORMAT, "split": {}}, "must be lists"),
        ({"format": FORMAT, "split": [1]}, "1 is no content id"),
        ({"format": FORMAT, "split": ["A" * 32]}, "no content id"),
        ({"format": FORMAT, "split": ["../" * 9000]}, r"\.\.\. is no content id"),
        ({"format": FORMAT, "join": ["a" * 32]}, "which is no pair"),
        ({"format": FORMAT, "join": [["a" * 32, "a" * 32]]}, "which is no pair"),
        ({"format": FORMAT, "join": [["a" * 32, None]]}, "None is no content id"),
    ],
)
def test_a_file_of_something_else_is_refused(values: Any, why: str, tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps(values))
    with pytest.raises(SettingsError, match=why) as refused:
        read_decisions(tmp_path / "d.json")
    assert "--decisions" in str(refused.value) and len(str(refused.value)) < 600


def test_a_file_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_decisions, "MOST", 1)
    (tmp_path / "d.json").write_text(json.dumps({"format": FORMAT, "split": ["a" * 32, "b" * 32]}))
    with pytest.raises(SettingsError, match="of 1 entries at most"):
        read_decisions(tmp_path / "d.json")
    monkeypatch.setattr(group_decisions, "MOST_BYTES", 10)
    for text, why in ((" " * 11, "larger than 10 bytes"), ("[" * 10, "holds no decisions"), ("\udcff", "no decisions")):
        (tmp_path / "d.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(SettingsError, match=why):
            read_decisions(tmp_path / "d.json")
    with pytest.raises(SettingsError, match="No such file"):
        read_decisions(tmp_path / "none.json")


def test_decisions_are_done_when_groups_are_made_and_stay_when_more_join(tmp_path: Path) -> None:
    looks = {"a": "0f" * 8, "b": "0f" * 8, "c": "5a" * 8, "d": "33" * 8}
    audit = write_audit(tmp_path / "audit", [row(name, phash=look) for name, look in looks.items()])
    table, file = tmp_path / "groups.parquet", tmp_path / "d.json"
    file.write_text(json.dumps({"format": FORMAT, "split": [NAME["b"]], "join": [[NAME["c"], NAME["d"]]]}))
    found = group_audit(audit, table, Alike(threshold=0, mirrored=False), decisions=file)
    rows = {LETTER[r["content"]]: r for r in pq.read_table(table).to_pylist()}
    assert {one: LETTER[r["group"]] for one, r in rows.items()} == {"c": "c", "d": "c"}
    assert (found.joined, found.groups) == (2, 1) and rows["d"]["key"] == "d" and rows["d"]["likeness"] is None
    assert GroupsFile.read(table, "--onto").made.decisions == {"split": 1, "join": 1}
    more = write_audit(tmp_path / "more", [row("e", phash="33" * 8), row("f", phash="0f" * 8)])
    group_audit(more, table, onto=GroupsFile.read(table, "--onto"))
    now = {LETTER[r["content"]]: LETTER[r["group"]] for r in pq.read_table(table).to_pylist()}
    assert now == {"c": "c", "d": "c", "e": "c", "a": "a", "f": "a"}, "e is like d, which is of c's group"
    file.write_text(json.dumps({"format": FORMAT, "split": [NAME["h"]], "join": []}))
    with pytest.raises(
        SettingsError, match=f"1 of its images are in no audit that is grouped, the first '{NAME['h']}'"
    ):
        group_audit(audit, tmp_path / "x.parquet", decisions=file)
