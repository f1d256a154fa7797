"""Whole runs with the filter at the loader: what is trained, accounted for, resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from filtering.ledger import read_ledger
from filtering.verdict import Reason
from train.config import RunConfig
from train.loop import fit
from train.setup import set_up

MakeConfig = Callable[..., RunConfig]
LOOSE: dict[str, Any] = {"apply": "sieve", "signals": ["loss"], "record": [], "score_after": 0, "score_budget": 1.0,
                         "false_drop_rate": 0.98, "held_out_per_window": 12, "min_sweeps": 2,
                         "ledger_kept": True}  # fmt: skip
"""Loose enough that some pairs are condemned in a few steps; measuring is free, so that the schedule does not
depend on the number of ranks."""


def sections(**filter: Any) -> dict[str, Any]:
    return {"filter": {**LOOSE, **filter}, "train": {"steps": 14}, "tracking": {"log_every": 1}}


def metrics(config: RunConfig) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "time" and "seconds" not in k and "val/" not in k} for r in rows]


def test_skipped_at_the_loader_the_same_with_workers_and_after_a_resume(make_config: MakeConfig) -> None:
    whole = make_config("whole", **sections())
    summary = fit(set_up(whole))
    ledger = read_ledger(whole.output / "ledger")
    rows = ledger.to_pylist()
    skipped = [row for row in rows if row["reason"] == Reason.SKIPPED]
    assert summary["condemned_groups"] > 0 and skipped and summary["remainder"] == 0
    assert summary["dropped"][str(Reason.SKIPPED)] == len(skipped)
    assert summary["read"] == len(rows) == 14 * 8 + len(skipped), "the next sample takes a skipped one's place"
    assert all(row["action"] == "drop" and row["weight"] == 0.0 for row in skipped)
    first = {row["group"]: row["step"] for row in reversed(rows) if row["reason"] == Reason.CONDEMNED}
    dates = {row["group"]: row["step"] for row in reversed(skipped)}
    assert min(dates.values()) > min(first.values(), default=0)
    with_workers = make_config("workers", **sections(), data={"workers": 2})
    fit(set_up(with_workers))
    assert read_ledger(with_workers.output / "ledger").equals(ledger)
    assert metrics(with_workers) == metrics(whole)
    half = make_config("half", **sections(), checkpoint={"every": 7}, data={"workers": 2})
    half.train.steps = 9
    fit(set_up(half))
    half.train.steps = 14
    resumed = set_up(half)
    assert resumed.step == 7 and resumed.loader.windows == 7
    fit(resumed)
    assert read_ledger(half.output / "ledger").equals(ledger)
    assert metrics(half)[-7:] == metrics(whole)[-7:]
    assert (half.output / "sieve/rank0.bin").read_bytes() == (whole.output / "sieve/rank0.bin").read_bytes()


def test_always_and_never_drop_reach_the_loader(make_config: MakeConfig) -> None:
    config = make_config(**sections(always_drop=["00005"], never_drop=["00006", "00007"]))
    config.train.steps = 20
    fit(set_up(config))
    rows = read_ledger(config.output / "ledger").to_pylist()
    banned = [row for row in rows if row["key"] == "00005"]
    assert banned and all(row["reason"] == Reason.ALWAYS_DROP and row["timestep"] == -1 for row in banned)
    assert all(row["weight"] == 1.0 for row in rows if row["key"] in ("00006", "00007"))


def test_what_the_sieve_cannot_do_is_refused(make_config: MakeConfig) -> None:
    for option, value in {"policy": "reweight", "decide": "visit"}.items():
        with pytest.raises(ValueError, match=r"filter\.apply: sieve skips condemned groups, which needs"):
            make_config(filter={"apply": "sieve", option: value})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_sift_alike(make_shared_config: Callable[..., RunConfig], run_ranks: Callable[..., Any]) -> None:
    """Two gloo ranks: the same trained rows as one process, twice over, each rank skipping in its own streams."""
    alone = make_shared_config("sieve-one", **sections())
    fit(set_up(alone))
    jobs = []
    for name, workers in (("first", 0), ("again", 2)):
        part = sections()
        part["train"] = {"steps": 14, "batch_size": 4}
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
