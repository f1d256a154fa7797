"""Scores of an audit: what they are, and that they are there once, whatever happens on the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from memsieve.filtering.audit.folder import AuditFolder
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.status import audit_status
from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.filtering.settings import SettingsError

Audit = Callable[..., Outcome]

Read = Callable[[Path], pa.Table]


def test_the_same_command_does_only_what_is_missing_or_stale(
    audit: Audit, folder: Path, tmp_path: Path, read_rows: Read, make_shards: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    audit(folder, out)
    first = read_rows(out)
    again = audit(folder, out)
    assert not again.done and again.skipped == 3
    tasks = AuditFolder(out).tasks()
    AuditFolder(out).scores(tasks[0]).unlink()
    AuditFolder(out).marker_file(tasks[1]).write_text("{")
    assert [audit_status(out).counts[name] for name in ("done", "missing")] == [1, 2]
    assert len(audit(folder, out).done) == 2 and read_rows(out).equals(first)
    other = make_shards(tmp_path / "other", 5, per_shard=8, first=500)
    shutil.copy(other / "00000.tar", folder / "00001.tar")
    status = audit_status(out)
    assert status.counts["stale"] == 1 and not status.complete
    assert list(audit(folder, out).done) == [str(folder / "00001.tar")]
    now = read_rows(out)
    assert len(now) == 21 and audit_status(out).complete
    changed = np.array([shard.endswith("00001.tar") for shard in now["shard"].to_pylist()])
    assert set(now.filter(pa.array(changed))["caption"].to_pylist()) == {f"pair {500 + i}" for i in range(5)}


def test_other_settings_are_refused_not_mixed(audit: Audit, folder: Path, tmp_path: Path) -> None:
    audit(folder, tmp_path / "out", draws=1)
    with pytest.raises(SettingsError, match=r"draws = 1, now it is 2.*--rescore"):
        audit(folder, tmp_path / "out", draws=2)
    with pytest.raises(SettingsError, match="2 shard.s. that are not named now"):
        audit(folder / "00000.tar", tmp_path / "out", draws=1)
    assert len(audit(folder, tmp_path / "out", draws=2, rescore=True).done) == 3
    assert audit_status(tmp_path / "out").complete


def test_another_model_under_the_same_path_is_noticed(
    audit: Audit, folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    audit(folder, tmp_path / "out", draws=1, model=True)
    denoiser = open_denoiser(str(model))
    with torch.no_grad():
        next(denoiser.model.parameters()).add_(1e-3)
    denoiser.export(model, denoiser.model)
    from memsieve.filtering.audit.config import AuditConfig
    from memsieve.filtering.audit.score import score_shards

    config = AuditConfig.model_validate({"model": str(model), "data": {"path": str(folder)}, "draws": 1})
    with pytest.raises(SettingsError, match=r"model.hash"):
        score_shards(config, tmp_path / "out")


def test_data_only_needs_no_model(audit: Audit, folder: Path, tmp_path: Path, read_rows: Read) -> None:
    audit(folder, tmp_path / "out", model=False)
    table = read_rows(tmp_path / "out")
    assert len(table) == 24 and table["n_draws"].to_pylist() == [0] * 24 and table["loss"].null_count == 24
    assert len(set(table["phash"].to_pylist())) == 22


def test_ctrl_c_leaves_whole_shards_only(audit: Audit, folder: Path, tmp_path: Path, read_rows: Read) -> None:
    def stop(task: Any, samples: int, share: float) -> None:
        if task.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(folder, tmp_path / "out", advance=stop)
    assert len(read_rows(tmp_path / "out")) == 8
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert len(audit(folder, tmp_path / "out").done) == 2
