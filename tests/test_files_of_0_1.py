"""What version 0.1 wrote (revision 90cf5c3) is nobody's lost work: runs, audits, keep-lists, groups and checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner, Result

from memsieve import MemorizationFilter
from memsieve.cli import app
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.loader import WindowLoader
from memsieve.filtering.ledger import read_ledger
from memsieve.filtering.settings import SettingsError, load_settings
from memsieve.train.config import RunConfig
from memsieve.train.set_up import set_up
from tests.train.conftest import tiny_model  # noqa: F401

OLD = Path(__file__).parent / "files_of_0_1"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything, in the folder that relative paths start from."""
    copied = tmp_path / "old"
    shutil.copytree(OLD, copied)
    for file in (copied / "audit" / "markers").glob("*.json"):  # a checkout has times of its own
        marker = json.loads(file.read_text())
        os.utime(copied / marker["task"], ns=(marker["identity"]["mtime_ns"],) * 2)
    monkeypatch.chdir(copied)
    return copied


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_a_report_of_an_old_run(old: Path) -> None:
    done = run("report", "run")
    assert done.exit_code == 0, done.output
    page = (old / "run" / "report.html").read_text()
    assert "read 32 samples and trained on 32" in page


def test_an_old_ledger_and_its_tables(old: Path) -> None:
    rows = read_ledger(old / "run" / "ledger").to_pylist()
    assert len(rows) == 32 and sum(row["magnitude"] is not None for row in rows) > 16
    assert pq.read_table(old / "run" / "groups.parquet").num_rows == 12


def test_an_old_audit_its_keep_list_and_clean_shards(old: Path) -> None:
    assert run("audit", "status", "audit").exit_code == 0
    assert run("audit", "report", "audit").exit_code == 0
    done = run("audit", "select", "audit", "--drop-fraction", "0.2", "--out", "again.parquet")
    assert done.exit_code == 0, done.output
    before, now = (pq.read_table(old / name) for name in ("keep.parquet", "again.parquet"))
    assert before.column_names == now.column_names and before.equals(now)
    done = run("audit", "apply", "keep.parquet", "--out", "clean")
    assert done.exit_code == 0, done.output
    assert len(list((old / "clean").rglob("*.tar"))) >= 1


def test_an_old_keep_list_and_groups_in_training(old: Path) -> None:
    data = DataConfig(path="data/train", keep_list="keep.parquet", groups="groups.parquet", resolution=16, streams=1,
                      held_out_fraction=0.0)  # fmt: skip
    windows = list(WindowLoader(data, 4, max_epochs=1))
    kept = sum(pq.read_table(old / "keep.parquet")["keep"].to_pylist())
    assert 0 < sum(row is not None for window in windows for row in window.rows) == kept < 16


def test_a_checkpoint_of_a_loop_of_ones_own(old: Path) -> None:
    state = torch.load("own_loop.pt", weights_only=True)
    sieve = MemorizationFilter(signals=["loss"], record=[], false_drop_rate=0.1, spare_above=None)
    sieve.load_state_dict(state)
    assert sieve.condemned == {"p0": 4} and sieve.step == 12 and sieve.n_groups == 8
    assert sieve.held_out.ready and np.isfinite(sieve.evidence_bar)
    assert sieve.groups["exposures"].tolist() == [12] * 8


def test_an_old_run_is_not_gone_on_with_and_the_version_is_named(old: Path, tiny_model: Path) -> None:  # noqa: F811
    (old / "model").symlink_to(tiny_model)
    assert "1 settings taken out (filter.held_out_draws)" in run("config", "upgrade", "c.yaml").output
    config = load_settings(RunConfig, old / "c.yaml", ["train.steps=12"])
    with pytest.raises(SettingsError, match=r"started by memsieve 0\.1 with filter\.held_out_draws: 4, .* in 0\.1, or"):
        set_up(config)
    kept = old / "run" / "config.yaml"
    kept.write_text(kept.read_text().replace("held_out_draws: 4", "held_out_draws: 16", 1))
    with pytest.raises(ValueError, match=r"written by memsieve 0\.1\.0 .* start a new run folder"):
        set_up(config)
    assert (old / "run" / "summary.json").is_file(), "nothing of it was touched"
