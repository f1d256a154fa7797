"""The audit's commands and page: exit codes, nothing unescaped, nothing sent away that was not asked for."""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.filtering.audit.records import SCORES_SCHEMA
from memsieve.filtering.audit.summary import summarise
from memsieve.pages.audit import build_audit_report
from tests.train.conftest import picture, save_tiny_model, write_shards

ROOT = Path(__file__).parents[4]
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["audit", *map(str, words)])


@pytest.fixture
def audited(model: Path, tmp_path: Path) -> Path:
    """An audit of two shards with a hostile sample and a planted pair, its scores such that 'pair 0' leads."""
    data = write_shards(tmp_path / "data", 14, per_shard=10, copies=5)
    with tarfile.open(data / "00001.tar", "a") as tar:
        for name, content in (("<b>x.png", picture(99)), ("<b>x.txt", HOSTILE.encode()), (f"{HOSTILE}.txt", b"alone")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    result = run("score", "--shards", data, "--out", tmp_path / "run", "--model", model, "--draws", 2)
    assert result.exit_code == 0, result.output
    for file in (tmp_path / "run" / "scores").glob("*.parquet"):
        rows = pq.read_table(file).to_pylist()
        for row in rows:
            if row["caption"] == "pair 0":
                row["magnitude"], row["magnitude_mean"] = [90.0, 92.0], 91.0
        pq.write_table(pa.Table.from_pylist(rows, schema=SCORES_SCHEMA), file)
        marker = tmp_path / "run" / "markers" / f"{file.stem}.json"
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"parquet_bytes": file.stat().st_size}))
    return tmp_path / "run"


def test_groups_of_images_that_look_alike(audited: Path, tmp_path: Path) -> None:
    result = run("groups", audited, "--out", tmp_path / "groups.parquet", "--bits", 0, "--no-mirrored")
    assert result.exit_code == 0, result.output
    assert "0 of 15 images have near-duplicates" in result.output, "six copies of one image's bytes are one image"
    table = pq.read_table(tmp_path / "groups.parquet")
    assert table.column_names == ["content", "group"] and len(table) == 0


def test_page_holds_what_was_found_and_nothing_that_runs(audited: Path, tmp_path: Path) -> None:
    rows = [("pair 0", 6)] + [(f"pair {i}", 1) for i in range(1, 14)]
    contents = {row.caption: row.content for row in summarise(audited).top}
    truth = pa.table({"group": [contents[caption] for caption, _ in rows], "repeats": [count for _, count in rows]})
    pq.write_table(truth, tmp_path / "truth.parquet")
    page, summary = build_audit_report(audited, truth=tmp_path / "truth.parquet", planted_from=5)
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert "script" not in tags.names and not any(name.startswith("on") for name in tags.attributes)
    assert "&lt;script&gt;alert(1)" in text, "the caption is shown, as text"
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text), "something is loaded from outside"
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert text.count('<img class="thumb"') == 15 and "planted</span>" in text
    values = json.loads((audited / "summary.json").read_text())
    assert (values["rows"], values["pairs"], values["scored"], values["failed"]) == (21, 15, 20, 1)
    assert (values["duplicate_groups"], values["duplicate_samples"]) == (1, 5)
    assert values["truth"]["auc"] == 1.0 and values["truth"]["precision_at"] == {"1": 1.0, "10": 0.1}
    assert values["truth"]["by_repeats"] == {"6": {"pairs": 1, "auc": 1.0}}
    assert summary.top[0].caption == "pair 0" and summary.top[0].score == 91.0 and summary.top[0].copies == 6
    counted = sum(int(counts.sum()) for _, _, counts in summary.histograms["loss"])
    assert counted == 2 * 15, "a pair's draws once, whatever its copies"


def test_pairs_planted_alike_are_judged_apart(audited: Path, tmp_path: Path) -> None:
    """Against the AUC counted by hand: the share of (planted, ordinary) pairs that stand in the right order."""
    found = summarise(audited)
    score = {row.content: row.score for row in found.top}
    repeats = {content: (6, 60, 60, 1, 1)[i % 5] for i, content in enumerate(sorted(score))}
    table = pa.table({"group": list(repeats), "repeats": list(repeats.values())})
    pq.write_table(table, tmp_path / "truth.parquet")
    page, summary = build_audit_report(audited, truth=tmp_path / "truth.parquet", planted_from=6)
    ordinary = [score[content] or 0 for content, count in repeats.items() if count == 1]
    rows = summary.values["truth"]["by_repeats"]
    for count in (6, 60):
        planted = [score[content] or 0 for content, number in repeats.items() if number == count]
        wins = [(p > o) + (p == o) / 2 for p in planted for o in ordinary]
        assert rows[str(count)] == {"pairs": len(planted), "auc": pytest.approx(sum(wins) / len(wins))}
    assert "Pairs planted alike" in page.read_text()


def test_exit_codes_and_the_chain_of_commands(audited: Path, tmp_path: Path) -> None:
    assert run("status", audited).exit_code == 0
    found = json.loads(run("status", audited, "--json").stdout)
    assert found["complete"] and found["rows"] == 21
    keep = tmp_path / "keep.parquet"
    result = run("select", audited, "--drop-fraction", "0.07", "--out", keep, "--out", tmp_path / "keep.txt")
    assert result.exit_code == 0 and len((tmp_path / "keep.txt").read_text().splitlines()) == 14, result.output
    assert run("apply", keep, "--out", tmp_path / "clean").exit_code == 0
    assert json.loads((tmp_path / "clean" / "manifest.json").read_text())["rejected"] == {"score": 6, "no_image": 1}
    assert run("report", audited).exit_code == 0
    shard = tmp_path / "data" / "00000.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    assert run("status", audited).exit_code == 1, "stale"
    again = run("score", "--shards", tmp_path / "data", "--out", tmp_path / "data-only", "--data-only")
    assert again.exit_code == 3, "done, but truncated"
    assert run("status", tmp_path / "data-only").exit_code == 3
    assert run("report", tmp_path / "data-only").exit_code == 3


def test_a_config_file_is_the_same_as_options(model: Path, tmp_path: Path) -> None:
    """Options lie over the file, --set over both; what neither names keeps its default."""
    data = write_shards(tmp_path / "data", 6, per_shard=3)
    file = tmp_path / "audit.yaml"
    text = {"output": str(tmp_path / "by-file"), "model": str(model), "draws": 3, "data": {"path": [str(data)]}}
    file.write_text(yaml.safe_dump(text))
    assert run("score", "--config", file, "--set", "draws=2", "--batch-size", 2).exit_code == 0
    words = ("--shards", data, "--model", model, "--draws", 2, "--batch-size", 2)
    assert run("score", *words, "--out", tmp_path / "by-options").exit_code == 0
    found = [json.loads((tmp_path / name / "audit.json").read_text()) for name in ("by-file", "by-options")]
    assert found[0] == found[1] and found[0]["config"]["data"]["resolution"] == 16, "the model's own"
    tables = [pq.read_table(tmp_path / name / "scores") for name in ("by-file", "by-options")]
    assert tables[0].equals(tables[1]) and len(tables[0]) == 6
    assert run("score", "--config", file, "--data-only", "--out", tmp_path / "look").exit_code == 0
    assert json.loads((tmp_path / "look" / "audit.json").read_text())["config"]["model"] is None


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "audit").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_say_how_they_run_and_run(file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """By the launch command of their header, on a small set in the place of the whole one."""
    head = file.read_text().split("output:")[0]
    assert all(word in head for word in ("Data:", "Launch:", "Hardware:", "Duration:", "Expected:", "Then:"))
    (launch,) = re.findall(r"# Launch: +memsieve audit (score --config \S+)", head)
    (then,) = re.findall(r"memsieve audit select (\S+ --dedup --out \S+)", head) or [None]
    (data,) = re.findall(r"# Data: +memsieve data openmoji (\S+) --size 32", head)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_shards(tmp_path / data / "train", 10, per_shard=8, copies=2)
    result = run(*launch.split())
    assert result.exit_code == 0, result.output
    out = yaml.safe_load(file.read_text())["output"]
    assert json.loads(run("status", out, "--json").stdout)["rows"] == 12
    if then is not None:
        assert run("select", *then.split()).exit_code == 0 and Path("keep.parquet").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "--shards", "x.tar", "--out", "o"], "--data-only"),
        (["score", "--shards", "pipe:cat x.tar", "--out", "o", "--data-only"], "--allow-pipe"),
        (["score", "--shards", "nothing-{0..3}.tar", "--out", "o", "--data-only"], "nothing is found"),
        (["score", "--shards", "x.tar", "--out", "o", "--data-only", "--set", "data.captoin_key=a"], "caption_key"),
        (["score", "--shards", "x.tar", "--out", "o", "--data-only", "--set", "data.crop=random"], "centre crop"),
        (["score", "--out", "o", "--data-only"], "give --shards"),
        (["score", "--shards", "x.tar", "--data-only"], "give --out"),
        (["score", "--config", "nowhere.yaml"], "config file 'nowhere.yaml' does not exist"),
        (["score", "--shards", "x.tar", "--out", "o", "--data-only", "--set", "prefech=1"], "did you mean 'prefetch'"),
        (["status", "nowhere"], "is not an audit"),
        (["select", "nowhere", "--dedup", "--out", "k.parquet"], "is not an audit"),
        (["apply", "nowhere.parquet", "--out", "o"], "does not exist"),
    ],
)
def test_mistakes_get_one_sentence(words: list[str], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert isinstance(result.exception, ValueError) and message in str(result.exception)


def test_wandb_gets_numbers_and_no_samples_unless_asked(audited: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A real offline run; what is in it is read back from its files."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    result = run("report", audited, "--wandb")
    assert result.exit_code == 0, result.output
    (logged,) = (audited / "wandb").glob("offline-run-*/*.wandb")
    wanted = (b"audit/duplicate_samples", b"audit/magnitude/t_0_to_249")
    end = time.monotonic() + 30  # W&B's own process writes the file
    while not all(name in logged.read_bytes() for name in wanted) and time.monotonic() < end:
        time.sleep(0.1)
    record = logged.read_bytes()
    assert all(name in record for name in wanted)
    shared = (audited / "shared" / "report.html").read_text()
    assert "pair 0" not in shared and "data:image" not in shared and "caption left out" in shared
    assert "pair 0" in (audited / "report.html").read_text()
    assert b"pair 0" not in record


def test_scores_open_without_memsieve(audited: Path, tmp_path: Path) -> None:
    """By their folder in pandas and datasets, and by the README's query where DuckDB is installed."""
    import datasets
    import pandas

    frame = pandas.read_parquet(audited / "scores")
    assert list(frame.columns) == SCORES_SCHEMA.names and len(frame) == 21
    files = [str(file) for file in (audited / "scores").glob("*.parquet")]
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.column_names == SCORES_SCHEMA.names and len(rows) == 21
    readme = (ROOT / "README.md").read_text()
    marked = r"<!-- executed by tests/memsieve/cli/audit/test_commands.py -->\n```sql\n(.*?)```"
    (query,) = re.findall(marked, readme, re.DOTALL)
    duckdb = pytest.importorskip("duckdb")
    base = tmp_path / "base" / "scores"
    base.mkdir(parents=True)
    for file in map(Path, files):  # a base that fits 'pair 0' a quarter as well, and the others as the tuned one does
        changed = [
            row | {"loss_mean": row["loss_mean"] and row["loss_mean"] * (4 if row["caption"] == "pair 0" else 1)}
            for row in pq.read_table(file).to_pylist()
        ]
        pq.write_table(pa.Table.from_pylist(changed, schema=SCORES_SCHEMA), base / file.name)
    query = query.replace("runs/tuned", str(audited)).replace("runs/base", str(tmp_path / "base"))
    found = duckdb.sql(query).fetchall()
    assert len(found) == 6 and found[0] == ("pair 0", 6, 0.75) and {row[2] for row in found[1:]} == {0.0}
