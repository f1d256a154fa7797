"""Commands in the wrong folder: what it is, the command for it, exit code 2, and nothing written over."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from memsieve.cli import app, main
from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji
from tests.memsieve.pages.test_run import write_run
from tests.train.conftest import write_shards


def refused(*words: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command ``memsieve WORDS`` says when it ends with exit code 2, through its real entry."""
    monkeypatch.setattr("sys.argv", ["memsieve", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    return said.replace("\n", " ")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "all runs" / "one", steps=60, groups=4, planted=1)


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    out = tmp_path / "audits" / "one"
    words = ["--data", str(write_shards(tmp_path / "shards", 4)), "--data-only", "--out", str(out)]
    assert CliRunner().invoke(app, ["audit", "score", *words]).exit_code == 0
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_report_of_what_is_no_run_says_what_it_is_and_writes_nothing(
    run: Path, audit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert CliRunner().invoke(app, ["audit", "report", str(audit)]).exit_code == 0
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("output: x")
    (tmp_path / "begun" / "ledger").mkdir()
    words = ["groups", str(audit), "--out", str(tmp_path / "begun" / "groups.parquet")]
    assert CliRunner().invoke(app, ["audit", *words]).exit_code == 0, "a table of that name is no run's"
    (run.parent / "summary.json").write_text(json.dumps({"copies": {}}))  # as a comparison of runs leaves it
    (run.parent / "config.yaml").write_text("train: {}")
    expected = {
        audit: f"it is an audit: memsieve audit report {audit}",
        run.parent: f"it holds runs or audits (1); name one of them: memsieve report {shlex.quote(str(run))}",
        run / "samples": f"it is a part of a training run: memsieve report {shlex.quote(str(run))}",
        tmp_path / "shards": f"it is a folder of shards: memsieve audit score --data {tmp_path / 'shards'}",
        tmp_path / "begun": "it has a config.yaml and no record of a step",
    }
    for folder, known in expected.items():
        (folder / "report.html").write_text("a good page")
        before = files(folder)
        said = refused("report", folder, monkeypatch=monkeypatch, capsys=capsys)
        assert f"'{folder}' is not a training run: {known}" in said
        assert files(folder) == before


def test_the_command_that_is_advised_works(
    run: Path, audit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (["report", str(run.parent)], ["report", str(audit)], ["audit", "status", str(run)]):
        said = refused(*wrong, monkeypatch=monkeypatch, capsys=capsys)
        words = shlex.split(said[said.index("memsieve ") :])
        assert CliRunner().invoke(app, words[1:]).exit_code == 0, words


@pytest.mark.parametrize(
    "words", [["report"], ["status"], ["select", "--dedup", "--out", "k.parquet"], ["groups", "--out", "g.parquet"]]
)
def test_audit_commands_on_a_run_name_its_report(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    before = files(run)
    said = refused("audit", words[0], run, *words[1:], monkeypatch=monkeypatch, capsys=capsys)
    assert f"'{run}' is not an audit: it is a training run: memsieve report {shlex.quote(str(run))}" in said
    assert files(run) == before


def test_other_commands_say_what_the_folder_is(
    run: Path, audit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (run / "pipeline").mkdir()
    build_openmoji(tmp_path / "data", DatasetPlan(size=8, plant=["1x2"], limit=240))
    shards = ("--data", tmp_path / "data/train", "--held-out", tmp_path / "data/held_out")
    cases = {
        ("copies", "--model", "m", "--data", tmp_path / "data"): "`check` says it, of any data: memsieve check --model",
        ("probe", "--model", run, "--data", tmp_path / "data", "--held-out", tmp_path / "data"): (
            "is a dataset with planted pairs; name the shards in"
        ),
        ("probe", "--model", run, *shards): f"'{run}' is a training run, its model is",
        ("verify", "--index", audit, "--images", run): f"'{audit}' holds no index, it is an audit",
        ("detect", "--model", run, "--prompts", "p.txt"): f"its model is '{run / 'pipeline'}'",
        ("audit", "status", tmp_path / "data"): "is not an audit: it is a dataset with planted pairs: memsieve check",
    }
    for words, known in cases.items():
        assert known in refused(*words, monkeypatch=monkeypatch, capsys=capsys), words


def test_nothing_is_written_into_the_folder_of_another_command(
    run: Path, audit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    config = {"output": str(audit), "model": {"path": "m"}, "data": {"path": str(shards)}, "train": {"steps": 1}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    cases = {
        ("audit", "score", "--data", shards, "--data-only", "--out", run): (run, "--out: '{}' is a training run"),
        ("audit", "report", audit, "--out", run / "page.html"): (run, "--out: '{}' is a training run"),
        ("train", tmp_path / "c.yaml"): (audit, "output: '{}' is an audit, whose files would be written over"),
    }
    for words, (folder, known) in cases.items():
        before = files(folder)
        assert known.format(folder) in refused(*words, monkeypatch=monkeypatch, capsys=capsys), words
        assert files(folder) == before
