"""What is read of a run's folder: whatever is missing or broken is a note, no secret is shown, every sample counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memsieve.pages.run_data import LEDGER, MAX_KEYS, GroupRow, RunData, accounting, load_run, removed_and_near


def write_run(
    run: Path, groups: list[dict[str, Any]] | None = None, ledger: list[dict[str, Any]] | None = None, config: str = ""
) -> RunData:
    """A run of these tables, read."""
    (run / "ledger").mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.5}\n')
    (run / "config.yaml").write_text(config)
    if groups is not None:
        pq.write_table(pa.Table.from_pylist(groups), run / "groups.parquet")
    if ledger is not None:
        pq.write_table(pa.Table.from_pylist(ledger, pa.schema(list(LEDGER.items()))), run / "ledger" / "a.parquet")
    return load_run(run)


def group(name: str, evidence: float, condemned: int = -1, **more: Any) -> dict[str, Any]:
    made = {"group": name, "key": f"key of {name}", "evidence_max": evidence, "condemned_step": condemned, "dropped": 0}
    return {**made, **more}


def drop(name: str, step: int, **more: Any) -> dict[str, Any]:
    return {"group": name, "step": step, "action": "drop", "reason": "condemned", "key": f"key of {name}", **more}


# -- the files ------------------------------------------------------------------------------------------------------


def test_metrics_of_a_resumed_run_keep_the_last_value(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1}\n{"step": 2, "a": NaN}\n[]\n{"step": 1, "a": 5}\n')
    assert load_run(tmp_path).metrics["a"] == ([1], [5])


def test_lines_of_the_metrics_that_are_no_rows_are_counted_and_left_out(tmp_path: Path) -> None:
    lines = ['{"step": 1, "a": 1, "name": "x"}', "", '{"a": 2}', "[1]", '{"step": 2, "a": 3', '{"step": 3, "a": 4}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    run = load_run(tmp_path)
    assert run.metrics == {"a": ([1, 3], [1, 4])}
    assert "metrics.jsonl: 3 line(s) could not be read and were left out" in run.notes


@pytest.mark.parametrize(
    "line",
    [
        "  wandb_api_key: abc123", "  apikey: abc123", "- token: abc123", "  'HF_TOKEN': abc123", '"password": abc123',
        "secret:abc123",
    ],
)  # fmt: skip
def test_a_secret_of_the_config_is_hidden(tmp_path: Path, line: str) -> None:
    run = write_run(tmp_path / "run", config=f"seed: 3\n{line}\ntokenizer: clip\nrandom_tokens: 2\n")
    assert run.config is not None and "abc123" not in run.config and "(hidden)" in run.config
    assert run.config.startswith("seed: 3\n") and run.config.endswith("tokenizer: clip\nrandom_tokens: 2\n")


def test_a_summary_that_is_no_object_is_a_note_and_numbers_that_are_not_finite_are_not_known(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "summary.json").write_text("[1]")
    run = load_run(tmp_path)
    assert run.summary is None and "summary.json holds no JSON object" in run.notes
    (tmp_path / "summary.json").write_text('{"read": 3, "heldout_loss": NaN}')
    assert load_run(tmp_path).summary == {"read": 3, "heldout_loss": None}


def test_a_ledger_of_an_older_version_has_the_columns_that_it_lacks_without_values(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_run(run, ledger=[drop("g", 5)])
    pq.write_table(pa.table({"step": [7], "group": ["old"], "unknown": [1]}), run / "ledger" / "b.parquet")
    (run / "ledger" / "c.parquet").write_bytes(b"no table")
    read = load_run(run)
    assert read.ledger.column_names == list(LEDGER)
    assert [(row["group"], row["step"], row["action"]) for row in read.ledger.to_pylist()] == [
        ("g", 5, "drop"),
        ("old", 7, None),
    ]
    (note,) = [note for note in read.notes if note.startswith("c.parquet")]
    assert "could not be read" in note


def test_a_folder_that_has_begun_and_no_more_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3")
    with pytest.raises(ValueError, match=r"is not a training run: it has a config\.yaml and no record of a step"):
        load_run(tmp_path)


# -- every sample ---------------------------------------------------------------------------------------------------


def test_what_was_read_is_what_its_parts_come_to_or_not() -> None:
    summary: dict[str, Any] = {
        "read": 20, "trained": 9, "dropped": {"condemned": 3, "always": 1}, "failed": {"not an image": 1},
        "held_out": 2, "remainder": 4,
    }  # fmt: skip
    found = accounting(summary)
    assert found is not None and (found["total"], found["ok"]) == (20, True)
    assert found["parts"] == [
        ("trained", "trained", 9), ("dropped: condemned", "dropped", 3), ("dropped: always", "dropped", 1),
        ("failed: not an image", "failed", 1), ("held out", "held_out", 2), ("remainder", "remainder", 4),
    ]  # fmt: skip
    more = accounting(summary | {"not_kept": {"a duplicate": 5}})
    assert more is not None and (more["total"], more["ok"]) == (25, False)
    assert ("not kept: a duplicate", "not_kept", 5) in more["parts"]


def test_a_run_that_does_not_say_what_it_read_has_no_accounting() -> None:
    assert accounting(None) is None and accounting({}) is None and accounting({"read": "many"}) is None
    bare = accounting({"read": 3, "trained": 3.0, "dropped": None})
    assert bare is not None and bare["ok"], "what is not said counts as nothing"


# -- the groups -----------------------------------------------------------------------------------------------------


def test_removed_are_the_condemned_and_the_dropped_and_near_the_highest_of_the_others(tmp_path: Path) -> None:
    groups = [
        group("plain", 1.0), group("near", 6.0), group("nothing", 0.0), group("endless", float("inf")),
        group("condemned", 7.0, condemned=30), group("counted", 2.0, dropped=4), group("listed", 9.0),
    ]  # fmt: skip
    run = write_run(tmp_path / "run", groups, [drop("listed", 3), {"group": "plain", "step": 1, "action": "observe"}])
    removed, near, count = removed_and_near(run, most=2, near=5)
    assert [row.group for row in removed] == ["listed", "condemned"] and count == 3
    assert [row.group for row in near] == ["near", "plain"], "without evidence, or without bound, nothing is near"
    assert near[0].condemned_step is None and removed[1].condemned_step == 30
    assert [row.group for row in removed_and_near(run, most=9, near=1)[1]] == ["near"]


def test_a_pair_without_evidence_was_never_compared() -> None:
    assert GroupRow("a", evidence_max=-0.2).compared
    assert not any(GroupRow("a", evidence_max=value).compared for value in (None, float("nan"), float("-inf")))


def test_a_groups_first_drop_is_told_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    ledger = [
        drop("g", 40, evidence=9.0, threshold=7.0, key="third"),
        drop("g", 20, evidence=8.0, threshold=7.5, key="first", p_value=float("nan")),
        drop("g", 30, evidence=8.5, threshold=7.2, key="first"),
    ]
    run = write_run(tmp_path / "run", [group("g", 9.0, condemned=20, exposures=3)], ledger)
    (row,), _, _ = removed_and_near(run, most=5, near=5)
    assert (row.first_drop, row.drop_evidence, row.threshold, row.drop_p) == (20, 8.0, 7.5, None)
    assert row.dropped == 3 and row.keys == ["key of g", "first", "third"] and row.exposures == 3


def test_without_a_table_of_groups_the_ledger_alone_says_who_was_dropped(tmp_path: Path) -> None:
    ledger = [drop("weak", 5, evidence=1.0), drop("strong", 9, evidence=3.0, shard="s.tar"), drop("", 4, group=None)]
    removed, near, count = removed_and_near(write_run(tmp_path / "run", None, ledger), most=1, near=5)
    assert [row.group for row in removed] == ["strong"] and near == [] and count == 2
    assert (removed[0].key, removed[0].shard, removed[0].dropped) == ("key of strong", "s.tar", 1)


def test_a_list_of_one_key_a_line_holds_each_key_once_and_none_that_breaks_a_line(tmp_path: Path) -> None:
    keys = ["a", "a", "two\nlines", "", *(f"k{i}" for i in range(MAX_KEYS))]
    run = write_run(tmp_path / "run", [group("g", 1.0, condemned=1)], [drop("g", i, key=k) for i, k in enumerate(keys)])
    (row,), _, _ = removed_and_near(run, most=5, near=5)
    assert len(row.keys) == len(set(row.keys)) == MAX_KEYS and row.keys[:2] == ["key of g", "a"]
    assert not any("\n" in key for key in row.keys) and "" not in row.keys
