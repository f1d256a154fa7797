"""Whole runs with the filter at the loader: what is trained, accounted for, resumed."""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from memsieve.filtering.data.loader_sieve import DELAY, RECORD_BYTES, group_digest
from memsieve.filtering.ledger import read_ledger
from memsieve.filtering.types import Reason
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up

pytestmark = pytest.mark.trains
MakeConfig = Callable[..., RunConfig]
LOOSE: dict[str, Any] = {"apply": "sieve", "signals": ["loss"], "record": [], "score_budget": 1.0,
                         "false_drop_rate": 0.98, "held_out_per_window": 12,
                         "ledger_kept": True}  # fmt: skip
"""Loose enough that some pairs are condemned in a few steps; measuring is free, so that the schedule does not
depend on the number of ranks."""


def sections(**filter: Any) -> dict[str, Any]:
    return {"filter": {**LOOSE, **filter}, "train": {"steps": 14}, "tracking": {"log_every": 1}}


def fit_and_count(config: RunConfig) -> tuple[dict[str, Any], dict[int, int]]:
    """A whole run's summary, and for each of its windows how many turns of the streams had been read by then."""
    session = set_up(config)
    loader, turns = session.loader, {0: 0}

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(loader, name)

        def __iter__(self) -> Iterator[Any]:
            for window in loader:
                turns[loader.windows] = loader.ticks
                yield window

    session.loader = Counted()  # type: ignore[assignment]
    return fit(session), turns


def metrics(config: RunConfig) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "time" and "seconds" not in k and "val/" not in k} for r in rows]


def test_skipped_at_the_loader_the_same_with_workers_and_after_a_resume(make_config: MakeConfig) -> None:
    for steps in (14, 28, 56, 112, 224):  # how soon a condemned pair comes round again is up to the model
        part = {**sections(), "train": {"steps": steps}}
        whole = make_config(f"whole-{steps}", **part)
        summary, turns = fit_and_count(whole)
        ledger = read_ledger(whole.output / "ledger")
        rows = ledger.to_pylist()
        skipped = [row for row in rows if row["reason"] == Reason.SKIPPED]
        if skipped:
            break
    assert summary["condemned_groups"] > 0 and skipped and summary["remainder"] == 0
    assert summary["dropped"][str(Reason.SKIPPED)] == len(skipped)
    trained = Counter(row["step"] for row in rows if row["reason"] != Reason.SKIPPED)
    epochs = {row["step"]: row["epoch"] for row in rows if row["reason"] != Reason.SKIPPED}
    full = [step for step in range(1, steps) if epochs[step] == epochs[step + 1]]
    assert len(full) > 5 and {trained[step] for step in full} == {8}, "the next sample takes a skipped one's place"
    assert summary["read"] == len(rows) == sum(trained.values()) + len(skipped)
    assert all(row["action"] == "drop" and row["weight"] == 0.0 for row in skipped)
    groups = pq.read_table(whole.output / "groups.parquet")
    skips = dict(zip(groups["group"].to_pylist(), groups["skipped"].to_pylist(), strict=True))
    assert {name: count for name, count in skips.items() if count} == Counter(row["group"] for row in skipped)
    condemned = dict(zip(groups["group"].to_pylist(), groups["condemned_step"].to_pylist(), strict=True))
    names = {group_digest(name): name for name in condemned}
    for digest, turn, _ in rulings((whole.output / "sieve/rank0.bin").read_bytes()):
        assert turn == turns[condemned[names[digest]]] + DELAY, "no worker can have read so far"
        first = [row["step"] for row in rows if row["group"] == names[digest] and row["reason"] == Reason.SKIPPED]
        assert all(turns[step] >= turn for step in first)
        later = [row["reason"] for row in rows if row["group"] == names[digest] and turns[row["step"] - 1] >= turn]
        assert set(later) <= {Reason.SKIPPED}, "a decision holds from the turn that it names"
    with_workers = make_config("workers", **part, data={"workers": 2})
    fit(set_up(with_workers))
    assert read_ledger(with_workers.output / "ledger").equals(ledger)
    assert metrics(with_workers) == metrics(whole)
    half = make_config("half", **part, checkpoint={"every": 7}, data={"workers": 2})
    half.train.steps = 9
    fit(set_up(half))
    half.train.steps = steps
    resumed = set_up(half)
    assert resumed.step == 7 and resumed.loader.windows == 7
    fit(resumed)
    assert read_ledger(half.output / "ledger").equals(ledger)
    assert metrics(half)[-steps + 7 :] == metrics(whole)[-steps + 7 :]
    assert (half.output / "sieve/rank0.bin").read_bytes() == (whole.output / "sieve/rank0.bin").read_bytes()
    assert pq.read_table(half.output / "groups.parquet").equals(groups)


def test_always_and_never_drop_reach_the_loader(make_config: MakeConfig) -> None:
    config = make_config(**sections(always_drop=["00005"], never_drop=["00006", "00007"]))
    config.train.steps = 20
    fit(set_up(config))
    rows = read_ledger(config.output / "ledger").to_pylist()
    banned = [row for row in rows if row["key"] == "00005"]
    assert banned and all(row["reason"] == Reason.ALWAYS_DROP and row["timestep"] == -1 for row in banned)
    assert all(row["weight"] == 1.0 for row in rows if row["key"] in ("00006", "00007"))


def rulings(data: bytes) -> list[tuple[bytes, int, bool]]:
    """(digest, turn, condemned) of a sieve file."""
    assert len(data) % RECORD_BYTES == 0
    found = struct.iter_unpack("<16sq", data)
    return [(digest, number >> 1, bool(number & 1)) for digest, number in found]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_sift_alike(make_shared_config: Callable[..., RunConfig], run_ranks: Callable[..., Any]) -> None:
    """Two gloo ranks: the same trained rows as one process, twice over, each rank skipping in its own streams."""
    alone = make_shared_config("sieve-one", **{**sections(), "train": {"steps": 28}})
    fit(set_up(alone))
    jobs = []
    for name, workers in (("first", 0), ("again", 2)):
        part = sections()
        part["train"] = {"steps": 28, "batch_size": 4}
        config = make_shared_config(f"sieve-{name}", **part, data={"workers": workers})
        jobs.append({"name": name, "config": config.model_dump(mode="json"), "twist": ""})
    done = run_ranks("ddp", jobs)
    same = ["step", "key", "group", "stream", "epoch", "offset", "action", "reason", "timestep", "weight"]
    tables = [read_ledger(alone.output.parent / f"sieve-{name}" / "ledger") for name in ("one", "first", "again")]
    assert tables[1].drop_columns(["rank"]).equals(tables[2].drop_columns(["rank"]))
    assert tables[0].select(same).equals(tables[1].select(same))
    ranks = {row["rank"] for row in tables[1].to_pylist() if row["reason"] == Reason.SKIPPED}
    assert ranks == {0, 1}
    assert done.outcomes[0]["first"]["summary"]["remainder"] == 0


LOOSER: dict[str, Any] = {"false_drop_rate": 0.9, "max_drop_fraction": 1.0, "held_out_per_window": 24}
SPENT: dict[str, Any] = {"signals": ["loss", "magnitude"], "record": [], "score_budget": 0.4}
"""A measured visit takes one extra forward, of the model in training: half a budget of .4 steps, each as dear as three
forwards, pays for two of four rows. No signal here compares with the base: so early in a run that is a small difference
of large numbers, whose rounding is another under each engine and number of threads."""


@pytest.fixture(scope="module")
def under_ddp(make_shared_config: Callable[..., RunConfig], run_ranks: Callable[..., Any]) -> tuple[Any, Any]:
    """(runs, config) of a sieve run with a budget that binds, on two ranks."""
    return two_ranks(make_shared_config, run_ranks, "ddp")


def two_ranks(make: Callable[..., RunConfig], run_ranks: Callable[..., Any], engine: str) -> tuple[Any, RunConfig]:
    part = sections(**SPENT, **LOOSER)
    part["train"] = {"steps": 80, "batch_size": 4}
    config = make(f"spent-{engine}", **part, data={"held_out_max": 12})
    return run_ranks(engine, [{"name": "run", "config": config.model_dump(mode="json"), "twist": ""}]), config


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_budget_that_binds_is_kept_on_two_ranks(under_ddp: tuple[Any, RunConfig]) -> None:
    done, config = under_ddp
    rows = read_ledger(config.output / "ledger").to_pylist()
    measured = [row for row in rows if row["magnitude"] is not None]
    waiting = [row for row in rows if row["reason"] == Reason.NOT_DUE]
    assert measured and waiting, "some are measured, others would be and are not"
    a_batch = Counter((row["step"], row["rank"]) for row in measured)
    assert max(a_batch.values()) <= math.floor(0.4 * 0.5 * 3 * 4), "rows that half the budget pays for"
    assert {rank for _, rank in a_batch} == {0, 1}
    copies = Counter((row["step"], row["group"]) for row in measured)
    assert set(copies.values()) == {1}, "a group is measured once a window, whichever ranks it is on"
    assert done.outcomes[0]["run"]["summary"]["condemned_groups"] > 0
    assert done.outcomes[0]["run"]["summary"]["remainder"] == 0
    files = [(config.output / f"sieve/rank{rank}.bin").read_bytes() for rank in range(2)]
    assert files[0] == files[1] != b"", "all ranks write the same rulings"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ["zero1", "zero2", "zero3"])
def test_zero_sifts_as_ddp(
    engine: str,
    under_ddp: tuple[Any, RunConfig],
    make_shared_config: Callable[..., RunConfig],
    run_ranks: Callable[..., Any],
) -> None:
    """The same rows read, measured, skipped and trained; under ZeRO-3 each extra forward is a collective, and a rank
    with nothing to measure goes along."""
    done, config = two_ranks(make_shared_config, run_ranks, engine)
    reference, other = under_ddp
    mine, theirs = (read_ledger(c.output / "ledger") for c in (config, other))
    same = ["step", "rank", "key", "group", "stream", "epoch", "offset", "action", "reason", "timestep", "weight"]
    assert mine.select(same).equals(theirs.select(same))
    assert any(row["reason"] == Reason.SKIPPED for row in mine.to_pylist())
    for name in ("loss", "magnitude", "evidence"):
        values = [np.array(table[name].to_pylist(), dtype=np.float64) for table in (mine, theirs)]
        assert np.array_equal(np.isfinite(values[0]), np.isfinite(values[1]))
        assert np.allclose(values[0], values[1], atol=2e-3, equal_nan=True), name
    for rank in range(2):
        written = [(c.output / f"sieve/rank{rank}.bin").read_bytes() for c in (config, other)]
        assert written[0] == written[1] != b""
    apart = torch.linalg.vector_norm(done.weights("run") - reference.weights("run"))
    assert float(apart / torch.linalg.vector_norm(reference.weights("run"))) < 1e-3
