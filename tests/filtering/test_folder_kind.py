"""What a folder is, by the files in it, and what may be written there."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memsieve.filtering import folder_kind as module
from memsieve.filtering.folder_kind import (
    AUDIT,
    TRAINING,
    Kind,
    folder_kind,
    is_training_run,
    refuse_other_kind,
    what_it_is,
)
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.written import write_audit

KINDS = {
    "an audit": ["audit.json"],
    "a training run": ["metrics.jsonl"],
    "an index": ["index.json"],
    "a result of memsieve detect": ["settings.json", "scores.jsonl"],
    "a diffusers pipeline": ["model_index.json"],
    "a LoRA": ["base_model.json"],
    "a dataset with planted pairs": ["truth.parquet"],
    "a folder of shards": ["00000.tar"],
}


def folder_with(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# -- which kind --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "files"), KINDS.items())
def test_a_folder_is_known_by_the_files_that_a_command_leaves(tmp_path: Path, name: str, files: list[str]) -> None:
    kind = folder_kind(folder_with(tmp_path / "it", *files))
    assert kind is not None and kind.name == name
    for count in range(len(files)):
        assert folder_kind(folder_with(tmp_path / f"some{count}", *files[:count])) is None


def test_what_is_no_folder_or_holds_nothing_known_is_of_no_kind(tmp_path: Path) -> None:
    folder_with(tmp_path, "notes.txt", "summary.json", "config.yaml")
    for place in (tmp_path, tmp_path / "notes.txt", tmp_path / "nowhere"):
        assert folder_kind(place) is None and what_it_is(place) is None


def test_an_audit_with_other_files_in_it_is_an_audit(tmp_path: Path) -> None:
    """Its report and its lists may lie beside its scores."""
    write_audit(tmp_path, [])
    assert folder_kind(folder_with(tmp_path, "metrics.jsonl", "index.json", "truth.parquet")) == AUDIT


# -- a training run ----------------------------------------------------------------------------------------------------


def test_a_run_is_known_by_any_of_its_records(tmp_path: Path) -> None:
    assert not is_training_run(folder_with(tmp_path / "begun", "config.yaml", "ledger/notes.txt"))
    assert is_training_run(folder_with(tmp_path / "a", "metrics.jsonl"))
    assert is_training_run(folder_with(tmp_path / "b", "ledger/part-0.parquet"))
    pq.write_table(pa.table({"group": ["g"], "exposures": [3]}), folder_with(tmp_path / "c") / "groups.parquet")
    assert is_training_run(tmp_path / "c")
    (folder_with(tmp_path / "d") / "summary.json").write_text(json.dumps({"read": 8, "trained": 7, "dropped": {}}))
    assert is_training_run(tmp_path / "d")
    assert not is_training_run(folder_with(tmp_path / "e", "metrics.jsonl/a folder of that name"))


@pytest.mark.parametrize("table", [{"content": ["x"], "group": ["y"]}, b"no table at all", b""])
def test_a_table_of_groups_that_an_audit_or_somebody_wrote_is_no_run(tmp_path: Path, table: Any) -> None:
    file = tmp_path / "groups.parquet"
    file.write_bytes(table) if isinstance(table, bytes) else pq.write_table(pa.table(table), file)
    assert not is_training_run(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"copies": {}}),
        json.dumps({"read": 8}),
        json.dumps(["read", "trained"]),
        "{",
        "[" * 100_000,
        json.dumps({"read": 8, "trained": 8, "more": " " * 2**20}),
    ],
    ids=["of something else", "in part", "a list", "cut", "nested without end", "far too large"],
)
def test_a_summary_that_is_no_runs_is_read_past(tmp_path: Path, text: str) -> None:
    """Anybody may call a file so; what it holds must not stop a command, nor fill the memory."""
    (tmp_path / "summary.json").write_text(text)
    assert not is_training_run(tmp_path)


def test_a_summary_that_is_no_text_is_read_past(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_bytes(b"\xff\xfe\x00read trained")
    assert not is_training_run(tmp_path)


# -- the sentence ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "files"), KINDS.items())
def test_the_sentence_names_the_kind_and_a_command_with_the_path_quoted(
    tmp_path: Path, name: str, files: list[str]
) -> None:
    folder = folder_with(tmp_path / "it's mine", *files)
    said = what_it_is(folder)
    assert said is not None and said.startswith(f"it is {name}: ")
    words = shlex.split(said.partition(": ")[2])
    assert any(word.startswith(str(folder)) for word in words) and (
        words[0] == "memsieve" or name == "a result of memsieve detect"
    )


def test_a_folder_of_runs_names_the_first_three_and_their_number(tmp_path: Path) -> None:
    for name in ("d", "b", "a"):
        folder_with(tmp_path / name, "metrics.jsonl")
    write_audit(tmp_path / "c", [])
    folder_with(tmp_path / ".hidden", "metrics.jsonl")
    folder_with(tmp_path / "data", "00000.tar")
    commands = [f"memsieve report {tmp_path}/a", f"memsieve report {tmp_path}/b", f"memsieve audit report {tmp_path}/c"]
    assert what_it_is(tmp_path) == f"it holds runs or audits (4); name one of them: {', '.join(commands)}, ..."
    (tmp_path / "d" / "metrics.jsonl").unlink()
    assert what_it_is(tmp_path) == f"it holds runs or audits (3); name one of them: {', '.join(commands)}"


def test_a_folder_that_is_looked_through_is_looked_through_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home folder or a data set may hold any number of others."""
    monkeypatch.setattr(module, "MOST_CHILDREN", 2)
    for name in ("a", "b"):
        folder_with(tmp_path / name)
    folder_with(tmp_path / "c", "metrics.jsonl")
    assert what_it_is(tmp_path) is None


def test_a_part_of_a_run_or_an_audit_names_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder_with(tmp_path / "run", "metrics.jsonl", "samples/one.png")
    assert what_it_is(run / "samples") == f"it is a part of a training run: memsieve report {run}"
    audit = write_audit(tmp_path / "audit", [])
    assert what_it_is(audit / "scores") == f"it is a part of an audit: memsieve audit report {audit}"
    monkeypatch.chdir(run)
    assert what_it_is(Path("samples")) == f"it is a part of a training run: memsieve report {run}"
    shards = folder_with(tmp_path / "shards", "00000.tar", "inner/notes.txt")
    assert what_it_is(shards / "inner") is None, "what lies in other kinds is nothing of theirs"


# -- writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "own", "name"),
    [
        (["metrics.jsonl"], AUDIT, "a training run"),
        (["audit.json"], TRAINING, "an audit"),
        (["settings.json", "scores.jsonl"], TRAINING, "a result of memsieve detect"),
    ],
)
def test_another_commands_folder_is_not_written_into(tmp_path: Path, files: list[str], own: Kind, name: str) -> None:
    folder = folder_with(tmp_path / "it", *files)
    with pytest.raises(SettingsError) as refused:
        refuse_other_kind(folder, own, "--out")
    said = str(refused.value)
    assert said.startswith(f"--out: '{folder}' is {name}, whose files would be written over; name another folder (for ")
    assert said.endswith(f"{folder})")


def test_ones_own_folder_a_new_one_and_one_without_records_are_written_into(tmp_path: Path) -> None:
    for folder, own in (
        (folder_with(tmp_path / "run", "metrics.jsonl"), TRAINING),
        (folder_with(tmp_path / "both", "metrics.jsonl", "audit.json"), TRAINING),
        (folder_with(tmp_path / "both", "metrics.jsonl", "audit.json"), AUDIT),
        (folder_with(tmp_path / "shards", "00000.tar"), AUDIT),
        (folder_with(tmp_path / "empty"), AUDIT),
        (tmp_path / "new", TRAINING),
    ):
        refuse_other_kind(folder, own, "--out")
