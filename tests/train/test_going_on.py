"""Going on from a checkpoint: after the end, after a failure, and with what a message advised to change."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.filtering.ledger import read_ledger
from memsieve.filtering.settings import SettingsError
from memsieve.train.checkpoint import saved_steps
from memsieve.train.config import RunConfig
from memsieve.train.loop import BadDataError, fit
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from memsieve.train.step import NonFiniteError

MakeConfig = Callable[..., RunConfig]
SAVING: dict[str, Any] = {"checkpoint": {"every": 500, "final": True}}
PLAIN: dict[str, Any] = {**SAVING, "filter": {"enabled": False}}
runner = CliRunner()


def weights(session: Session) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in session.model.parameters()])


def train(config: RunConfig, path: Path, *options: str) -> tuple[int, str]:
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    result = runner.invoke(app, ["train", str(path), *options])
    return result.exit_code, " ".join(result.stderr.split())


def metrics(config: RunConfig, name: str) -> list[int]:
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if name in row]


# -- after the end --------------------------------------------------------------------------------------------------


def test_a_complete_run_goes_on_where_steps_are_raised_also_with_fewer_than_checkpoint_every(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    fixed: dict[str, Any] = {**SAVING, "filter": {"ledger_kept": True}, "tracking": {"log_every": 1}}
    whole, parts = (make_config(name, **fixed, train={"steps": 5}) for name in ("whole", "parts"))
    session = set_up(whole)
    fit(session)
    parts.train.steps = 3
    assert train(parts, tmp_path / "c.yaml")[0] == 0
    code, said = train(parts, tmp_path / "c.yaml")
    assert code == 0 and "is complete; raise train.steps to go on" in said
    parts.train.steps = 5
    resumed = set_up(parts)
    assert resumed.step == 3
    summary = fit(resumed)
    assert summary["read"] == 40 and summary["remainder"] == 0
    assert torch.equal(weights(resumed), weights(session))
    assert read_ledger(parts.output / "ledger").equals(read_ledger(whole.output / "ledger"))
    assert metrics(parts, "train/loss") == metrics(whole, "train/loss") == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_epochs_may_be_raised_and_every_sample_is_read_once_an_epoch(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(**SAVING, train={"epochs": 1, "steps": None}, filter={"ledger_kept": True})
    assert train(config, tmp_path / "c.yaml")[0] == 0
    code, said = train(config, tmp_path / "c.yaml")
    assert code == 0 and "is complete; raise train.epochs to go on" in said
    config.train.epochs = 2
    assert train(config, tmp_path / "c.yaml")[0] == 0
    summary = json.loads((config.output / "summary.json").read_text())
    assert summary["read"] == 128 and summary["remainder"] == 0 and summary["epochs"] == 2
    ledger = read_ledger(config.output / "ledger")
    visits = list(zip(ledger["key"].to_pylist(), ledger["epoch"].to_pylist(), strict=True))
    assert len(visits) == len(set(visits)) == 128
    assert "is complete" in train(config, tmp_path / "c.yaml")[1]


def test_a_complete_run_without_a_checkpoint_is_never_trained_over(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(train={"steps": 1}, filter={"enabled": False})
    assert not config.checkpoint.final
    assert train(config, tmp_path / "c.yaml")[0] == 0
    code, said = train(config, tmp_path / "c.yaml")
    assert code == 0 and "is complete and kept no checkpoint to go on from; name another output" in said
    before = {path: path.read_bytes() for path in config.output.rglob("*") if path.is_file()}
    config.train.steps = 2
    code, said = train(config, tmp_path / "c.yaml")
    assert code == 2 and "has no checkpoint to go on from" in said and "name another output" in said
    assert {path: path.read_bytes() for path in config.output.rglob("*") if path.is_file()} == before
    assert train(config, tmp_path / "c.yaml", "--set", f"output={tmp_path / 'another'}")[0] == 0


# -- after a failure ------------------------------------------------------------------------------------------------


def test_a_bad_sample_ends_the_run_after_saving_and_what_it_advises_goes_on(
    make_config: MakeConfig, make_shards: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_shards(tmp_path / "data", 60)
    with tarfile.open(folder / "00003.tar", "a") as tar:
        for member, data in {"zzz.png": b"\x89PNG broken", "zzz.txt": b"words"}.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    fixed: dict[str, Any] = {"train": {"steps": 9}, "filter": {"ledger_kept": True}}
    strict = make_config("strict", data={"path": str(folder), "shuffle_buffer": 0}, **fixed)
    code, said = train(strict, tmp_path / "c.yaml")
    (saved,) = saved_steps(strict.output)
    assert code == 1 and "zzz" in said and "raise data.max_bad" in said and saved > 1
    assert f"Then the same command goes on from step {saved}" in said
    assert "zzz" in read_ledger(strict.output / "ledger")["key"].to_pylist(), "the ledger names it already"
    assert train(strict, tmp_path / "c.yaml")[0] == 1, "as long as nothing is changed"
    strict.data.max_bad = 1
    assert train(strict, tmp_path / "c.yaml")[0] == 0
    tolerant = make_config("tolerant", data={"path": str(folder), "shuffle_buffer": 0, "max_bad": 1}, **fixed)
    assert train(tolerant, tmp_path / "t.yaml")[0] == 0
    ours, theirs = (json.loads((run.output / "summary.json").read_text()) for run in (strict, tolerant))
    for name in ("read", "trained", "failed", "dropped", "remainder", "heldout_loss"):
        assert ours[name] == theirs[name], name
    assert read_ledger(strict.output / "ledger").equals(read_ledger(tolerant.output / "ledger"))


def test_where_all_data_goes_away_the_run_is_saved_and_goes_on_when_it_is_back(
    make_config: MakeConfig, make_shards: Callable[..., Path], tmp_path: Path
) -> None:
    """As when a file system is unmounted, here between the second window and the third."""
    folder, away = make_shards(tmp_path / "data", 16, per_shard=16), tmp_path / "away"
    fixed: dict[str, Any] = {"data": {"path": str(folder), "max_bad": 1000, "streams": 1}, "train": {"steps": 5}}
    whole = set_up(make_config("whole", **fixed, **PLAIN))
    fit(whole)
    config = make_config("run", **fixed, **PLAIN)
    session = set_up(config)
    end = session.trainer.train

    def then_it_is_gone(batches: Any) -> Any:
        result = end(batches)
        if session.step == 1:
            folder.rename(away)
            folder.mkdir()
        return result

    session.trainer.train = then_it_is_gone  # type: ignore[method-assign]
    with pytest.raises(BadDataError, match=r"no usable row in a whole pass .* goes on from step 2"):
        fit(session)
    folder.rmdir()
    away.rename(folder)
    again = set_up(config)
    assert again.step == 2
    assert fit(again)["read"] == 40
    assert torch.equal(weights(again), weights(whole))


def test_a_loss_that_is_not_finite_goes_on_from_before_with_a_lower_learning_rate(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """From the very weights that gave it, it would come again: they are not what the advice leads to."""
    config = make_config(**PLAIN, train={"steps": 1}, optimizer={"name": "sgd"})
    assert train(config, tmp_path / "c.yaml")[0] == 0
    config.train.steps, config.optimizer.lr = 6, 1e30
    code, said = train(config, tmp_path / "c.yaml")
    assert code == 1 and "not finite" in said and "Traceback" not in said
    assert "With a lower optimizer.lr the same command goes on from step 1" in said
    assert saved_steps(config.output) == [1]
    config.optimizer.lr = 1e-3
    assert train(config, tmp_path / "c.yaml")[0] == 0
    summary = json.loads((config.output / "summary.json").read_text())
    assert summary["updates"] == 6 and math.isfinite(summary["heldout_loss"])


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 0])
def test_a_loss_that_is_not_finite_names_the_checkpoint_to_remove(
    make_config: MakeConfig, tmp_path: Path, every: int
) -> None:
    config = make_config(train={"steps": 6}, filter={"enabled": False}, checkpoint={"every": every, "keep": 3},
                         optimizer={"name": "sgd", "lr": 1e30})  # fmt: skip
    code, said = train(config, tmp_path / "c.yaml")
    assert code == 1
    saved = saved_steps(config.output)
    if every:
        removed = f"checkpoints/step-{saved[-1]:08d}"
        place = f"goes on from step {saved[-2]}" if saved[:-1] else "begins anew"
        assert f"With a lower optimizer.lr, and {removed} removed, the same command {place}" in said
    else:
        assert saved == [] and "With a lower optimizer.lr the same command begins anew" in said


def test_half_precision_can_be_left_after_a_loss_that_is_not_finite(
    make_config: MakeConfig, tmp_path: Path, other_process: Callable[[], None]
) -> None:
    """The weights before it are saved where full precision may help; the checkpoint is of another precision then."""
    other_process()
    config = make_config(**PLAIN, train={"steps": 4, "mixed_precision": "bf16"})
    session = set_up(config)
    original, count = session.trainer._losses, []

    def losses(batch: Any, apart: bool) -> Any:
        count.append(1)
        value, prediction = original(batch, apart)
        return (value * float("inf") if len(count) == 3 else value), prediction

    session.trainer._losses = losses  # type: ignore[method-assign]
    with pytest.raises(NonFiniteError, match=r"with train\.mixed_precision: no it goes on from step 2"):
        fit(session)
    assert saved_steps(config.output) == [2]
    other_process()
    code, said = train(config, tmp_path / "c.yaml", "--set", "train.mixed_precision=no")
    assert code == 0, said


# -- what may change ------------------------------------------------------------------------------------------------


def test_workers_may_change_on_resume_and_the_run_is_the_same(make_config: MakeConfig) -> None:
    fixed: dict[str, Any] = {**SAVING, "filter": {"ledger_kept": True}, "data": {"streams": 0}}
    whole, parts = (make_config(name, **fixed, train={"steps": 4}) for name in ("whole", "parts"))
    session = set_up(whole)
    fit(session)
    parts.train.steps = 2
    fit(set_up(parts))
    parts.train.steps, parts.data.workers = 4, 3
    with pytest.raises(SettingsError, match=r"data\.workers: 3 does not divide the 8 streams .* set data\.workers: 0"):
        set_up(parts)
    parts.data.workers = 2
    resumed = set_up(parts)
    fit(resumed)
    assert torch.equal(weights(resumed), weights(session))
    assert read_ledger(parts.output / "ledger").equals(read_ledger(whole.output / "ledger"))


def test_a_stop_comes_before_the_validation_which_the_resumed_run_makes_up_for(make_config: MakeConfig) -> None:
    config = make_config(train={"steps": 4}, filter={"enabled": False}, validation={"every": 2})
    session = set_up(config)
    original = session.trainer.train

    def interrupted(batches: Any) -> Any:
        if session.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return original(batches)

    session.trainer.train = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt, match="stopped at step 2; run the same command to go on"):
        fit(session)
    assert saved_steps(config.output) == [2] and metrics(config, "val/heldout_loss") == [0], "the base alone"
    fit(set_up(config))
    assert sorted(set(metrics(config, "val/heldout_loss"))) == [0, 2, 4]


# -- metrics.jsonl --------------------------------------------------------------------------------------------------


def test_a_cut_last_line_of_the_metrics_does_not_block_a_resume(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(**PLAIN, train={"steps": 2}, tracking={"log_every": 1})
    assert train(config, tmp_path / "c.yaml")[0] == 0
    file = config.output / "metrics.jsonl"
    with file.open("a") as stream:
        stream.write('{"step": 3, "time": 17')
    config.train.steps = 3
    code, said = train(config, tmp_path / "c.yaml")
    assert code == 0 and said.count("ended in a line that was cut off") == 1
    assert metrics(config, "train/loss") == [1, 2, 3]
    file.write_text("damaged\n" + file.read_text())
    config.train.steps = 4
    code, said = train(config, tmp_path / "c.yaml")
    assert code == 2 and "metrics.jsonl', line 1, is no JSON object" in said and "remove that line" in said
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    assert train(config, tmp_path / "c.yaml")[0] == 0


# -- several ranks --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_two_ranks_save_before_a_bad_sample_stops_them_and_go_on(
    make_config: MakeConfig, run_ranks: Any, engine: str
) -> None:
    fixed: dict[str, Any] = {"train": {"steps": 4, "batch_size": 4}, "optimizer": {"name": "sgd", "lr": 0.1},
                             "filter": {"ledger_kept": True}}  # fmt: skip
    stopped = make_config("stopped", **fixed)
    goes_on = stopped.model_copy(deep=True)
    goes_on.data.max_bad, goes_on.optimizer.lr = 1, 0.05
    whole = make_config("whole", **fixed, data={"max_bad": 1})
    longer = whole.model_copy(deep=True)
    longer.train.steps, longer.optimizer.lr, longer.checkpoint.final = 4, 0.05, True
    first = whole.model_copy(deep=True)
    first.train.steps, first.checkpoint.final = 1, True
    jobs = [
        {"name": name, "config": config.model_dump(mode="json"), "twist": "spoil_rank_1"}
        for name, config in (("stopped", stopped), ("goes_on", goes_on), ("first", first), ("longer", longer))
    ]
    runs = run_ranks(engine, jobs)
    for outcomes in runs.outcomes:
        assert "input is not finite" in outcomes["stopped"]["error"]
        assert "Then the same command goes on from step 1" in outcomes["stopped"]["error"]
        assert outcomes["goes_on"]["started_at"] == outcomes["longer"]["started_at"] == 1
        assert outcomes["goes_on"]["lr"] == outcomes["longer"]["lr"] == 0.05
    assert bool((runs.weights("goes_on") == runs.weights("longer")).all())
    assert not bool((runs.weights("goes_on") == runs.weights("first")).all())
    ours, theirs = (json.loads((run.output / "summary.json").read_text()) for run in (goes_on, longer))
    for name in ("read", "trained", "failed", "dropped", "remainder"):
        assert ours[name] == theirs[name], name
    assert ours["failed"] == {"input is not finite": 1}
    ledgers = [read_ledger(run.output / "ledger") for run in (goes_on, longer)]
    assert ledgers[0].equals(ledgers[1])
