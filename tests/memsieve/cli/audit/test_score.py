"""``memsieve audit score``: settings from a file and from options, what is said, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import webdataset
import yaml

from tests.memsieve.auditing import run, said
from tests.train.conftest import picture, write_shards


def test_a_config_file_is_the_same_as_options(model: Path, tmp_path: Path) -> None:
    """Options lie over the file, --set over both; what neither names keeps its default."""
    data = write_shards(tmp_path / "data", 6, per_shard=3)
    file = tmp_path / "audit.yaml"
    text = {"output": str(tmp_path / "by-file"), "model": str(model), "draws": 3, "data": {"path": [str(data)]}}
    file.write_text(yaml.safe_dump(text))
    assert run("score", "--config", file, "--set", "draws=2", "--batch", 2).exit_code == 0
    words = ("--data", data, "--model", model, "--draws", 2, "--batch", 2)
    assert run("score", *words, "--out", tmp_path / "by-options").exit_code == 0
    found = [json.loads((tmp_path / name / "audit.json").read_text()) for name in ("by-file", "by-options")]
    assert found[0] == found[1] and found[0]["config"]["data"]["resolution"] == 16, "the model's own"
    tables = [pq.read_table(tmp_path / name / "scores") for name in ("by-file", "by-options")]
    assert tables[0].equals(tables[1]) and len(tables[0]) == 6
    assert run("score", "--config", file, "--data-only", "--out", tmp_path / "look").exit_code == 0
    assert json.loads((tmp_path / "look" / "audit.json").read_text())["config"]["model"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "--data", "x.tar", "--out", "o"], "--data-only"),
        (["score", "--data", "pipe:cat x.tar", "--out", "o", "--data-only"], "--allow-pipe"),
        (["score", "--data", "nothing-{0..3}.tar", "--out", "o", "--data-only"], "nothing is found"),
        (["score", "--data", "x.tar", "--out", "o", "--data-only", "--set", "data.captoin_key=a"], "caption_key"),
        (["score", "--data", "x.tar", "--out", "o", "--data-only", "--set", "data.crop=random"], "centre crop"),
        (["score", "--out", "o", "--data-only"], "give --data"),
        (["score", "--data", "x.tar", "--data-only"], "give --out"),
        (["score", "--config", "nowhere.yaml"], "config file 'nowhere.yaml' does not exist"),
        (["score", "--data", "x.tar", "--out", "o", "--data-only", "--set", "prefech=1"], "did you mean 'prefetch'"),
    ],
)
def test_mistakes_get_one_sentence(words: list[str], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert isinstance(result.exception, ValueError) and message in str(result.exception)


def test_a_section_of_a_file_that_is_no_section_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"output: {tmp_path / 'run'}\nmodel: null\ndata: shards\n")
    result = run("score", "--config", tmp_path / "c.yaml", "--set", "seed=1")
    assert isinstance(result.exception, ValueError) and "c.yaml: 'data' = 'shards'" in str(result.exception)


def test_a_model_and_data_only_contradict_each_other_and_nothing_is_begun(tmp_path: Path) -> None:
    words = ("--data", write_shards(tmp_path / "data", 2), "--out", tmp_path / "run")
    result = run("score", *words, "--model", "m", "--data-only")
    assert isinstance(result.exception, ValueError) and "--model, or ask for --data-only" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_what_is_done_is_counted_and_a_second_time_nothing_is(tmp_path: Path) -> None:
    words = ("score", "--data", write_shards(tmp_path / "data", 6, per_shard=3), "--data-only", "--out")
    assert "2 shards done now (6 samples, 0 unusable), 0 before" in said(run(*words, tmp_path / "run"))
    again = run(*words, tmp_path / "run")
    assert again.exit_code == 0 and "0 shards done now (0 samples, 0 unusable), 2 before" in said(again)


def test_a_shard_that_cannot_be_had_leaves_the_others_done_and_is_tried_again(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 6, per_shard=3)
    (data / "00001.tar").rename(tmp_path / "later.tar")
    shards = ("--data", data / "00000.tar", "--data", f"pipe:cat {data / '00001.tar'}")
    words = ("score", *shards, "--allow-pipe", "--data-only", "--out", tmp_path / "run")
    result = run(*words)
    assert result.exit_code == 1
    assert "1 shards done now (3 samples, 0 unusable), 0 before" in said(result) and "not done: " in said(result)
    assert "1 shards are not done; the same command tries them again" in said(result)
    (tmp_path / "later.tar").rename(data / "00001.tar")
    again = run(*words)
    assert again.exit_code == 0 and "1 shards done now (3 samples, 0 unusable), 1 before" in said(again)


def test_a_folder_that_cannot_be_written_to_ends_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    data = write_shards(tmp_path / "data", 2)
    result = run("score", "--data", data, "--data-only", "--out", tmp_path / "taken")
    assert result.exit_code == 1
    assert "The shards that were finished stand; run the same command again when that is repaired" in said(result)
    assert (tmp_path / "taken").read_text() == "a file"


def test_damaged_shards_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 9, per_shard=3)
    for shard in (data / "00001.tar", data / "00002.tar"):
        shard.write_bytes(shard.read_bytes()[:3000])
    result = run("score", "--data", data, "--data-only", "--out", tmp_path / "run")
    assert result.exit_code == 3
    assert f"truncated or damaged: 2 of the shards, the first '{data / '00001.tar'}'" in said(result)


def test_shards_without_a_sample_are_said(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "0.tar")):
        pass
    result = run("score", "--data", tmp_path / "0.tar", "--data-only", "--out", tmp_path / "audit")
    assert result.exit_code == 4 and "there is none in 1 shards" in result.output.replace("\n", " ")


def test_a_rank_whose_own_share_is_useless_does_not_end_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard, good in enumerate((False, True)):
        with webdataset.TarWriter(str(tmp_path / f"{shard}.tar")) as tar:
            tar.write({"__key__": "a", "png": picture(shard), **({"txt": b"x"} if good else {})})
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (0, 1, 0):
        monkeypatch.setenv("RANK", str(rank))
        result = run("score", "--data", tmp_path, "--data-only", "--out", tmp_path / "audit")
        assert result.exit_code == 0, result.output
