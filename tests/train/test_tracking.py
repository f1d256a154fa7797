"""An offline W&B run, read back from its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up
from tests.offline_wandb import logged_rows

MakeConfig = Callable[..., RunConfig]


def history(run: Path) -> list[list[dict[str, Any]]]:
    """Logged rows of each offline run in a run folder, oldest first."""
    files = sorted(run.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    return [logged_rows(file) for file in files]


@pytest.fixture
def tracked(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def make(**sections: dict[str, Any]) -> RunConfig:
        tracking = {"report_to": ["wandb"], "log_every": 1, "histogram_every": 2, **sections.pop("tracking", {})}
        return make_config(tracking=tracking, checkpoint={"every": 2, "export": False}, **sections)

    return make


def test_names_histograms_and_table(tracked: Callable[..., RunConfig]) -> None:
    validation = {"prompts": ["pair 1"], "copy_groups": 2, "copy_images": 1, "sampling_steps": 2}
    config = tracked(train={"steps": 4, "caption_dropout": 0.0}, validation=validation)
    fit(set_up(config))
    (rows,) = history(config.output)
    names = set().union(*rows)
    assert {
        "train/loss", "train/loss_unfiltered", "train/lr", "train/grad_norm", "mem/magnitude_mean",
        "mem/magnitude_p95", "mem/dropped_frac", "mem/kept_count", "mem/weight_mean", "mem/skipped_steps",
        "val/heldout_loss", "val/probe_magnitude", "val/suspects_magnitude", "val/probe_copy_rate",
        "val/suspects_copy_rate",
    } <= names  # fmt: skip
    histograms = {name for name in names if name.startswith("mem/magnitude/t_")}
    assert "mem/magnitude/t_0000_0100" in histograms or len(histograms) >= 3
    kinds = [value for row in rows for name, value in row.items() if name.startswith("mem/magnitude/t_")]
    assert "histogram" in kinds or any(isinstance(v, dict) and v["_type"] == "histogram" for v in kinds)
    table = next(row for row in rows if row.get("mem/top_dropped/_type") == "table-file")
    assert table["mem/top_dropped/ncols"] == 6 and 0 < table["mem/top_dropped/nrows"] <= 20
    local = [json.loads(line)["step"] for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(local)) == [0, 1, 2, 3, 4], "0 is the base"


def test_captions_stay_here_unless_opted_in(tracked: Callable[..., RunConfig]) -> None:
    def sent(config: RunConfig) -> bytes:
        fit(set_up(config))
        files = [p for p in (config.output / "wandb").rglob("*") if p.is_file() and not p.is_symlink()]
        assert files
        return b"".join(p.read_bytes() for p in files)

    assert b"pair 1" not in sent(tracked(train={"steps": 2}))
    config = tracked(train={"steps": 2}, tracking={"log_samples": True})
    config.output = config.output.with_name("opted-in")
    assert b"pair 1" in sent(config)


def test_a_resumed_run_goes_on_with_the_same_id_and_later_steps(tracked: Callable[..., RunConfig]) -> None:
    config = tracked(train={"steps": 3})
    fit(set_up(config))
    identity = (config.output / "wandb_id").read_text()
    config.train.steps = 6
    fit(set_up(config))
    assert (config.output / "wandb_id").read_text() == identity
    steps = [json.loads(line)["step"] for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and set(steps) == {0, 1, 2, 3, 4, 5, 6}, "0 is the base"
    first, second = history(config.output)
    assert [row["_step"] for row in second] == sorted(row["_step"] for row in second)
    assert second[0]["_step"] == 3 and first[-1]["_step"] == 3
