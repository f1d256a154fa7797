"""The page of groups: what is shown in which order, nothing unescaped, and decisions that are taken as exported."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from memsieve.filtering.audit.group_decisions import FORMAT
from memsieve.filtering.audit.group_files import GroupsFile
from memsieve.filtering.audit.groups import Alike, group_audit
from memsieve.filtering.data.rows import content_id
from memsieve.pages import groups as page_of_groups
from memsieve.pages.groups import build_groups_page
from tests.filtering.audit.test_group_check import file_of
from tests.filtering.audit.test_joining import shard
from tests.filtering.audit.written import row, write_audit
from tests.filtering.identity.test_descriptors import scene
from tests.memsieve.auditing import HOSTILE, run, said
from tests.memsieve.pages.test_run import Loads


def lighter(image: Image.Image, by: int) -> Image.Image:
    return image.point(lambda value: min(255, value + by))


@pytest.fixture
def grouped(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Groups of three and of two images, and two that are alone; a caption that would run."""
    first = {f"a{i}": lighter(scene(0, 96), i) for i in range(3)} | {f"b{i}": lighter(scene(1, 96), i) for i in (0, 1)}
    names = shard(tmp_path / "0.tar", {**first, "alone": scene(2, 96), "other": scene(3, 96)}, HOSTILE)
    assert run("score", "--data", tmp_path / "0.tar", "--data-only", "--out", tmp_path / "run").exit_code == 0
    assert run("groups", tmp_path / "run", "--out", tmp_path / "groups.parquet").exit_code == 0
    return tmp_path / "groups.parquet", names


def order(text: str, names: dict[str, str], kind: str) -> list[str]:
    """Keys of the images that buttons of a kind are about, in their order."""
    key = {content: key for key, content in names.items()}
    return [key[content] for content in re.findall(rf'data-{kind}="([0-9a-f]{{32}})"', text)]


def test_largest_groups_come_first_with_their_pictures_and_nothing_runs(
    grouped: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    table, names = grouped
    result = run("review", table)
    assert result.exit_code == 0 and said(result) == str(tmp_path / "groups.html")
    text = (tmp_path / "groups.html").read_text()
    assert order(text, names, "pick") == ["a0", "b0"]
    assert order(text, names, "split")[:5] == ["a0", *order(text, names, "split")[1:3], "b0", "b1"]
    assert sorted(order(text, names, "split")[5:]) == ["a1", "a2", "b1"], "images beside their leaders"
    loads = Loads()
    loads.feed(text)
    assert loads.scripts == 1 and not loads.handlers and all(one.startswith("data:image/") for one in loads.loads)
    assert "alert(1)&lt;/script" in text and "<script>alert" not in text
    assert text.count("data:image/jpeg") == 5 + 2 * 3 and len(text) < 400_000
    assert "5 images are in 2 groups, by perceptual hashes that differ in at most 4 bits" in text


def test_pairs_nearest_to_the_threshold_are_on_both_sides(tmp_path: Path) -> None:
    likeness = {"a": None, "b": 0.72, "c": 0.99, "d": None, "e": 0.8}
    audit = write_audit(tmp_path / "audit", [row(name) for name in "abcdefg"])
    name = {one: one.encode().hex().ljust(32, "0") for one in "abcdefg"}
    group_audit(audit, tmp_path / "groups.parquet", Alike("phash", 0))
    file = GroupsFile.read(tmp_path / "groups.parquet", "TABLE")
    rows = [
        dict.fromkeys(file.table.column_names)
        | {"content": name[one], "group": name["a"], "leader": name["a"], "likeness": value}
        for one, value in likeness.items()
    ]
    rows[3] |= {"leader": name["d"]}
    near = [(name["f"], name["g"], 0.69), (name["b"], name["d"], 0.6)]
    made = {
        **json.loads(file.made.to_json()),
        "near": near,
        "alike": {"by": "sscd", "threshold": 0.7, "mirrored": True},
    }
    table = pa.Table.from_pylist(rows, file.table.schema)
    made_by = {b"memsieve.groups": json.dumps(made).encode()}
    pq.write_table(table.replace_schema_metadata(made_by), tmp_path / "groups.parquet")
    text = build_groups_page(tmp_path / "groups.parquet", tmp_path / "page.html").read_text()
    parts = re.split(r'<section aria-labelledby="', text)
    joined, apart = parts[2], parts[3]
    assert order(joined, name, "split") == ["b", "e", "c"], (
        "least alike first; who was joined by hand is not among them"
    )
    assert re.findall(r'data-join="(\S+) (\S+)"', apart) == [(name["g"], name["f"])], "the others are one group now"
    assert "likeness 0.69" in apart and "the picture is not there" in apart and "by sscd from 0.7 on" in text


def test_what_the_filter_condemned_is_shown_as_the_groups_that_it_was(
    grouped: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    table, names = grouped
    trained = tmp_path / "trained"
    trained.mkdir()
    condemned = [("alone", 60, 9.0), ("a0", 40, 12.0), ("b0", -1, 1.0)]
    pq.write_table(
        pa.table(
            {
                "group": [names[key] for key, *_ in condemned] + ["gone"],
                "condemned_step": [step for _, step, _ in condemned] + [9],
                "evidence_max": [value for *_, value in condemned] + [5.0],
                "exposures": [7, 8, 9, 10],
            }
        ),
        trained / "groups.parquet",
    )
    result = run("review", table, "--trained", trained, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.exception
    last = (tmp_path / "page.html").read_text().split('id="h-condemned"')[1]
    assert order(last, names, "pick") == ["a0", "alone"]
    assert last.index("Step 40") < last.index("Step 60") < last.index("Step 9")
    assert "read 8 times, 3 images" in last and "read 7 times, 1 image" in last
    assert last.count("data:image/jpeg") == 3 + 1 and last.count("the picture is not there") == 1
    refused = run("review", table, "--trained", tmp_path / "run")
    assert isinstance(refused.exception, ValueError) and "is not a training run" in str(refused.exception)


def test_a_page_is_bounded_and_says_what_is_gone(
    grouped: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, names = grouped
    monkeypatch.setattr(page_of_groups, "MOST_GROUPS", 1)
    monkeypatch.setattr(page_of_groups, "MOST_MEMBERS", 2)
    monkeypatch.setattr(page_of_groups, "MOST_PAIRS", 1)
    text = build_groups_page(table, tmp_path / "page.html").read_text()
    assert "The 1 largest of 2" in text and "(2 are shown)" in text and len(order(text, names, "split")) == 2 + 1
    (tmp_path / "run").rename(tmp_path / "away")
    text = build_groups_page(table, tmp_path / "page.html").read_text()
    assert f"The audit in {tmp_path}/run is not there any more" in text and "data:image" not in text
    with pytest.raises(ValueError, match="TABLE: there is no file"):
        build_groups_page(tmp_path / "none.parquet", tmp_path / "page.html")


def test_a_table_cannot_name_shards_of_its_own(grouped: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """The audit's rows may be anybody's: what is not the audit's data is not looked into."""
    secret = shard(tmp_path / "secret.tar", {"s": scene(9, 96)})
    (scores,) = (tmp_path / "run" / "scores").glob("*.parquet")
    rows = pq.read_table(scores)
    changed = rows.to_pylist()
    changed[0] |= {"shard": str(tmp_path / "secret.tar"), "index": 0, "sha256": secret["s"] + "0" * 32}
    pq.write_table(pa.Table.from_pylist(changed, rows.schema), scores)
    marker = next((tmp_path / "run" / "markers").iterdir())
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"parquet_bytes": scores.stat().st_size}))
    assert run("groups", tmp_path / "run", "--out", tmp_path / "g.parquet").exit_code == 0
    text = build_groups_page(tmp_path / "g.parquet", tmp_path / "page.html").read_text()
    assert secret["s"] in text and content_id(file_of(scene(9, 96))) == secret["s"]
    assert text.count("the picture is not there") >= 1


def test_what_the_page_exports_is_taken(grouped: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    table, names = grouped
    text = build_groups_page(table, tmp_path / "page.html").read_text()
    assert f'"{FORMAT}"' in text
    decisions = {"format": FORMAT, "split": [names["a2"]], "join": [[names["b0"], names["alone"]]]}
    (tmp_path / "decisions.json").write_text(json.dumps(decisions, indent=1) + "\n")
    words = ("--out", table, "--decisions", tmp_path / "decisions.json")
    result = run("groups", tmp_path / "run", *words)
    assert result.exit_code == 0, result.exception
    key = {content: key for key, content in names.items()}
    found = {key[one["content"]]: key[one["group"]] for one in pq.read_table(table).to_pylist()}
    assert found == {"a0": "a0", "a1": "a0", "b0": "b0", "b1": "b0", "alone": "b0"}
    text = build_groups_page(table, tmp_path / "page.html").read_text()
    assert "1 images were split off and 1 joined by hand already." in text
