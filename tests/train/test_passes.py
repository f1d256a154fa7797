"""Passes over real data in whole runs: shards of any size, learning rates that follow, data that ends early."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from memsieve.filtering.ledger import read_ledger
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from tests.train.conftest import write_shards
from tests.train.rank_worker import condemn_everyone

MakeConfig = Callable[..., RunConfig]
COUNT = 7 * 6 + 2


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven shards of six samples and a last one of two."""
    return write_shards(tmp_path_factory.mktemp("unequal") / "train", COUNT, per_shard=6)


def plain(path: Path, **sections: Any) -> dict[str, Any]:
    """Unfiltered runs on this data."""
    return {"filter": {"enabled": False}, "data": {"path": str(path), "streams": 0, **sections.pop("data", {})},
            "tracking": {"log_every": 1}, **sections}  # fmt: skip


def logged(config: RunConfig, name: str) -> list[float]:
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_short_last_shard_is_read_as_often_as_the_others(
    make_config: MakeConfig, unequal: Path, workers: int
) -> None:
    sections = plain(unequal, train={"steps": 14}, data={"workers": workers})
    sections["filter"] = {"signals": ["loss"], "record": [], "policy": "observe"}
    config = make_config(**sections)
    session = set_up(config)
    assert session.loader.n_streams == 8
    summary = fit(session)
    exposures = pq.read_table(config.output / "groups.parquet")["exposures"].to_pylist()
    # A pass of 44 samples is six windows of eight, the last half full: two passes and two windows of the third.
    assert len(exposures) == COUNT and sum(exposures) == summary["read"] == 2 * COUNT + 16
    assert sorted(set(exposures)) == [2, 3]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_learning_rate_falls_to_the_end_of_the_last_pass(
    make_config: MakeConfig, unequal: Path, schedule: str
) -> None:
    sections = plain(unequal, train={"epochs": 2, "steps": None}, optimizer={"schedule": schedule})
    config = make_config(**sections)
    session = set_up(config)
    assert session.total_steps == 2 * 6
    summary = fit(session)
    assert summary["steps"] == 12 and summary["read"] == summary["trained"] == 2 * COUNT
    rates = logged(config, "train/lr")
    assert len(rates) == 12 and all(later < before for before, later in itertools.pairwise(rates))
    assert session.schedule.get_last_lr()[0] < 1e-3 * config.optimizer.lr


def spoil(session: Session, windows: set[int]) -> None:
    """No pixel of these windows is a number."""
    original = session.loader

    class Spoiled:
        def __getattr__(self, name: str) -> Any:
            return getattr(original, name)

        def __iter__(self) -> Iterator[Any]:
            for number, window in enumerate(original, 1):
                for row in window.rows if number in windows else []:
                    if row is not None:
                        row.pixels[:] = float("nan")
                yield window

    session.loader = Spoiled()  # type: ignore[assignment]


@pytest.mark.parametrize("enabled", [False, True])
def test_a_window_without_one_finite_sample_is_not_the_end_of_the_data(
    make_config: MakeConfig, unequal: Path, enabled: bool
) -> None:
    sections = plain(unequal, train={"epochs": 2, "steps": None}, data={"max_bad": 16})
    if enabled:
        sections["filter"] = {"ledger_kept": True}
    config = make_config(**sections)
    session = set_up(config)
    spoil(session, {2, 5})
    summary = fit(session)
    assert summary["steps"] == 12 and summary["skipped_steps"] == 2 and summary["updates"] == 10
    assert summary["read"] == 2 * COUNT and summary["failed"] == {"input is not finite": 16}
    assert summary["trained"] + sum(summary["dropped"].values()) == 2 * COUNT - 16 and summary["remainder"] == 0
    if enabled:
        keys = [row["key"] for row in read_ledger(config.output / "ledger").to_pylist()]
        assert sorted(keys) == sorted([f"{number:05d}" for number in range(COUNT)] * 2), "every sample, twice"


def all_condemned(path: Path, batch: int) -> dict[str, Any]:
    """A sieve that lets nothing through, once everyone is condemned."""
    sections = plain(path, train={"steps": 500, "batch_size": batch}, checkpoint={"export": True})
    sections["filter"] = {"apply": "sieve", "signals": ["loss"], "record": [], "score_budget": 1.0,
                          "max_drop_fraction": 1.0,
                          "always_drop": [f"{number:05d}" for number in range(8, COUNT)]}  # fmt: skip
    return sections


def test_where_everything_is_condemned_the_run_ends_and_is_saved(
    make_config: MakeConfig, unequal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a pass in which nothing could be trained on, with what was learned until then."""
    config = make_config(**all_condemned(unequal, 8))
    session = set_up(config)
    condemn_everyone(session)
    summary = fit(session)
    assert 0 < summary["steps"] < 500 and summary["remainder"] == 0
    assert summary["condemned_groups"] == 8
    assert f"in a whole pass {COUNT} rows are condemned or in filter.always_drop" in summary["ended_early"]
    assert "begin a new run with a lower filter.false_drop_rate or filter.max_drop_fraction" in " ".join(
        capsys.readouterr().err.split()
    )
    assert (config.output / "pipeline" / "model_index.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_read_unequal_shards_end_together_and_wait_for_each_other(
    make_shared_config: MakeConfig, run_ranks: Callable[..., Any], unequal: Path
) -> None:
    """Real ranks with real loader workers. A resume passes rows for longer than ranks wait for each other."""
    observed = {"signals": ["loss"], "record": [], "policy": "observe", "ledger_kept": True}

    def job(name: str, twist: str = "", **sections: Any) -> dict[str, Any]:
        config = make_shared_config(name, **sections)
        return {"name": name, "config": config.model_dump(mode="json"), "twist": twist}

    def stretch(steps: int, output: str, timeout: float) -> dict[str, Any]:
        part = plain(unequal, train={"steps": steps, "batch_size": 4, "timeout": timeout}, checkpoint={"every": 4})
        part["filter"] = observed
        return job(output, **part)

    alone = make_shared_config("passes-one", **{**plain(unequal, train={"steps": 14}), "filter": observed})
    fit(set_up(alone))
    both = plain(unequal, train={"steps": 14, "batch_size": 4}, data={"workers": 2})
    whole = job("passes-two", **{**both, "filter": observed})
    ended = job("passes-ended", "condemn_everyone", **all_condemned(unequal, 4))
    first, second = stretch(5, "passes-slow", 15.0), stretch(7, "passes-slow", 15.0)
    second |= {"name": "passes-slow-resumed", "twist": "slow_headers_on_rank_1"}
    done = run_ranks("ddp", [whole, ended, first, second])
    same = ["step", "key", "stream", "epoch", "offset"]
    ledgers = [read_ledger(Path(alone.output.parent / name / "ledger")) for name in ("passes-one", "passes-two")]
    assert ledgers[0].select(same).equals(ledgers[1].select(same))
    for rank in range(2):
        summary = done.outcomes[rank]["passes-ended"]["summary"]
        assert 0 < summary["steps"] < 500 and "nothing to train on" in summary["ended_early"]
        resumed = done.outcomes[rank]["passes-slow-resumed"]
        assert resumed["started_at"] == 4 and resumed["summary"]["steps"] == 7
        assert resumed["summary"]["remainder"] == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_one_damaged_sample_is_one_whichever_ranks_it_comes_to(
    make_shared_config: MakeConfig, run_ranks: Callable[..., Any], tmp_path: Path
) -> None:
    folder = write_shards(tmp_path / "train", 15)
    with tarfile.open(folder / "00000.tar", "a") as tar:
        for name, data in {"zzz.png": b"broken", "zzz.txt": b"words"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    sections = plain(folder, train={"steps": None, "epochs": 6, "batch_size": 4}, data={"max_bad": 1, "streams": 2})
    config = make_shared_config("passes-damaged", **sections)
    done = run_ranks("ddp", [{"name": "damaged", "config": config.model_dump(mode="json")}])
    summary = done.outcomes[0]["damaged"]["summary"]
    assert sum(summary["failed"].values()) == 6 and summary["trained"] == 6 * 15 and summary["remainder"] == 0
    failures = read_ledger(config.output / "ledger")
    assert set(failures["rank"].to_pylist()) == {0, 1}, "or nothing is tested"
