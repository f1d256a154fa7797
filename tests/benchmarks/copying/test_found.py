"""Groups as they are found in a stream, and what they are by the truth."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.copying.found import PART, _truth_of, find_groups, table_of
from benchmarks.copying.parts import add_part
from memsieve.filtering.audit.group_files import Alike, GroupsFile
from memsieve.filtering.data.group_table import group_table

Made = tuple[Path, list[dict[str, Any]]]
pytestmark = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")


@pytest.fixture
def stream(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / "stream"))


def test_groups_are_found_once(stream: Path, coarse: str) -> None:
    found = find_groups(stream, 2, (coarse,))
    joined = group_table(str(table_of(stream)))
    made = GroupsFile.read(table_of(stream), "--onto").made
    assert made.alike == Alike("coarse", found["threshold"]) and found["descriptor"] == "coarse"
    truth = pq.read_table(stream / "truth.parquet").to_pylist()
    left = [row for row in truth if row["part"] == PART]
    names = {joined.get(row["group"], row["group"]) for row in truth if row["part"] == "stream"}
    assert len(left) == len(names) == found["rows"] == len({joined.get(row["group"], row["group"]) for row in left})
    assert found["together"]["exact 20"] == found["together"]["paraphrase 30"] == 1.0, "one file each"
    table_of(stream).unlink()
    assert find_groups(stream, 2, (coarse,)) == found and not table_of(stream).is_file()


def test_groups_are_told_by_the_truth(made: Made) -> None:
    out, truth = made
    rows = [row for row in truth if row["part"] == "stream"]
    family = list({row["group"] for row in rows if row["case"] == "family 30"})
    ordinary = [row["group"] for row in rows if row["case"] == "ordinary"]
    rare = [row["group"] for row in rows if row["case"] == "rare"]
    joined = dict.fromkeys(family[1:], "one") | dict.fromkeys(ordinary[:2], "two")
    joined |= {family[0]: "three", rare[0]: "three"}
    found = _truth_of(out, joined)
    assert found["together"] == {
        "exact 20": 1.0, "family 30": pytest.approx(1 - 1 / len(family), abs=1e-4), "paraphrase 30": 1.0,
        "template 30": pytest.approx(1 / 6, abs=1e-4),
    }  # fmt: skip
    assert (found["ordinary_joined"], found["ordinary"]) == (3, 15), "a rare one with a family's, two with each other"


def test_a_part_has_the_first_row_of_each_name_and_is_written_anew(stream: Path) -> None:
    before = pq.read_table(stream / "truth.parquet").to_pylist()
    oracle = [(row["pair"], row["group"], row["caption"]) for row in before if row["part"] == "oracle"]
    assert add_part(stream, "again", lambda row: row.case, 2) == 6
    assert add_part(stream, "again", lambda row: row.pair, 2) == len(oracle)
    truth = pq.read_table(stream / "truth.parquet").to_pylist()
    made = [row for row in truth if row["part"] == "again"]
    assert [(row["pair"], row["group"], row["caption"]) for row in made] == oracle
    assert [row for row in truth if row["part"] != "again"] == before
    for one, other in zip(*(sorted((stream / part).glob("*.tar")) for part in ("oracle", "again")), strict=True):
        assert one.stat().st_size == other.stat().st_size
