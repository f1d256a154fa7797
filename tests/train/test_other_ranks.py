"""A run goes on with more or fewer ranks, and ends as the one that never stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.ledger import read_ledger
from memsieve.filtering.types import Reason
from memsieve.train.accounting import Accounting
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.other_ranks import shared_out
from memsieve.train.seen import GroupCounts
from memsieve.train.set_up import set_up

LOOSE: dict[str, Any] = {"signals": ["loss"], "record": [], "false_drop_rate": 0.98, "held_out_per_window": 12,
                         "ledger_kept": True}  # fmt: skip
MODES: dict[str, tuple[int, dict[str, Any]]] = {
    "batch": (12, LOOSE),
    "sieve": (28, {**LOOSE, "apply": "sieve", "score_budget": 1.0, "always_drop": ["00005", "copy0001"]}),
}
"""Steps, and the filter; measuring is free, so that what is measured does not hang on the layout."""
SAME = ["step", "key", "group", "stream", "epoch", "offset", "action", "reason", "timestep", "weight"]
COUNTED = ("read", "trained", "dropped", "failed", "held_out", "remainder", "groups", "condemned_groups")


def sections(mode: str, batch: int, share: float = 1.0) -> dict[str, Any]:
    steps, options = MODES[mode]
    return {
        "filter": options,
        "train": {"steps": round(steps * share), "batch_size": batch},
        "optimizer": {"name": "sgd", "lr": 0.1, "weight_decay": 0.0, "schedule": "constant"},
        "checkpoint": {"every": round(steps * share), "final": True},
        "model": {"ema": True, "ema_decay": 0.5},
    }


def weights(session: Any) -> torch.Tensor:
    state = session.accelerator.unwrap_model(session.model).state_dict()
    return torch.cat([state[name].flatten() for name in sorted(state)])


@pytest.fixture(scope="module")
def runs(make_shared_config: Callable[..., RunConfig], run_ranks: Callable[..., Any]) -> dict[str, Any]:
    """Of each mode: the run of one process, and those that changed the number of ranks halfway."""
    jobs, found = [], {}
    for mode in MODES:
        start = set_up(whole := make_shared_config(f"{mode}-whole", **sections(mode, 8)))
        found[f"{mode}-start"] = weights(start).clone()
        fit(start)
        found[f"{mode}-whole"] = whole.output, weights(start)
        more = make_shared_config(f"{mode}-more", **sections(mode, 8, 0.5))
        fit(set_up(more))
        fewer = make_shared_config(f"{mode}-fewer", **sections(mode, 4, 0.5))
        longer = make_shared_config(f"{mode}-more", **sections(mode, 4))
        jobs += [
            {"name": f"{mode}-fewer", "config": fewer.model_dump(mode="json"), "twist": ""},
            {"name": f"{mode}-more", "config": longer.model_dump(mode="json"), "twist": ""},
        ]
    done = run_ranks("ddp", jobs)
    for mode in MODES:
        assert done.outcomes[0][f"{mode}-more"]["started_at"] == MODES[mode][0] // 2
        found[f"{mode}-more"] = whole_path(found, mode, "more"), done.weights(f"{mode}-more")
        resumed = set_up(make_shared_config(f"{mode}-fewer", **sections(mode, 8)))
        assert resumed.step == MODES[mode][0] // 2
        fit(resumed)
        found[f"{mode}-fewer"] = whole_path(found, mode, "fewer"), weights(resumed)
    return found


def whole_path(found: dict[str, Any], mode: str, way: str) -> Path:
    return Path(found[f"{mode}-whole"][0]).with_name(f"{mode}-{way}")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["more", "fewer"])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_changed_its_ranks_ends_as_the_one_that_did_not(runs: dict[str, Any], mode: str, way: str) -> None:
    (one, expected), (other, found) = runs[f"{mode}-whole"], runs[f"{mode}-{way}"]
    ledgers = [read_ledger(folder / "ledger") for folder in (one, other)]
    assert ledgers[0].select(SAME).equals(ledgers[1].select(SAME)), "every sample, once, with the same verdict"
    assert {"batch": Reason.CONDEMNED, "sieve": Reason.ALWAYS_DROP}[mode] in set(ledgers[0]["reason"].to_pylist())
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    assert [summaries[0][name] for name in COUNTED] == [summaries[1][name] for name in COUNTED]
    tables = [pq.read_table(folder / "groups.parquet") for folder in (one, other)]
    exact = ["group", "exposures", "trained", "scored", "dropped", "condemned_step", "skipped", "first_step"]
    assert tables[0].select(exact).equals(tables[1].select(exact))
    assert (sum(tables[1]["skipped"].to_pylist()) > 0) == (mode == "sieve")
    assert all(tables[1]["key"].to_pylist()), "what ranks that are no more have seen is known"
    for name in ("evidence", "evidence_max"):
        single, double = (table[name].to_numpy(zero_copy_only=False) for table in tables)
        assert np.allclose(single, double, rtol=1e-3, atol=1e-4, equal_nan=True), name
    apart = (found - expected).norm() / (expected - runs[f"{mode}-start"]).norm()
    assert float(apart) < 1e-4


def saved(rank: int, samples: int, left: dict[str, int] | None = None) -> dict[str, Any]:
    """What rank ``rank`` of two saved: it has read ``samples`` rows and skipped one of a group of its own."""
    sieve, accounting, skips = MemorizationFilter(signals=["loss"], record=[]), Accounting(), GroupCounts()
    sieve.groups.observe([f"g{rank}"], np.array([1.0]), np.array([np.nan]), 1, 0)
    accounting.read = accounting.trained = samples
    skips.add(["both", f"only {rank}"])
    data = {"n_streams": 2, "windows": 3, "positions": [[rank, 5, False]]}
    records = {"accounting": accounting.as_dict(), "unusable": ["x"], "seen": {"samples": samples},
               "left": left or {}, "skips": skips.state_dict(), "evidence": [[1, "g0", 2.0, 3.0]]}  # fmt: skip
    state = sieve.local_state_dict() | {"rank": rank, "ranks": 2}
    return {"engine": "ddp, mixed precision no", "step": 3, "data": data, "records": records, "filter": state}


def counts(state: dict[str, Any]) -> dict[str, int]:
    skips = GroupCounts()
    skips.load_state_dict(state["records"]["skips"])
    return {row["group"]: row["n"] for row in skips.table("n").to_pylist()}


def test_counts_are_the_first_ranks_and_each_goes_on_with_its_own_samples() -> None:
    states = [saved(0, 4), saved(1, 7)]
    alone = shared_out(states, 0, 1)
    assert alone["step"] == 3 and alone["data"]["positions"] == [[0, 5, False], [1, 5, False]]
    assert alone["records"]["accounting"]["read"] == 11 and alone["records"]["accounting"]["remainder"] == 0
    assert alone["records"]["seen"] == {"samples": 4} and alone["records"]["left"] == {"1": 7}
    assert counts(alone) == {"both": 2, "only 0": 1, "only 1": 1}
    three = [shared_out(states, rank, 3) for rank in range(3)]
    assert [state["records"]["seen"]["samples"] for state in three] == [4, 7, 0]
    assert [state["records"]["accounting"]["read"] for state in three] == [11, 0, 0]
    assert [counts(state) for state in three[1:]] == [{}, {}]
    assert all(state["records"]["left"] == {} and state["records"]["unusable"] == ["x"] for state in three)


def test_who_was_left_behind_comes_back_to_its_samples() -> None:
    """Two ranks, then one, then two."""
    alone = saved(0, 9, left={"1": 7})
    both = [shared_out([alone], rank, 2) for rank in range(2)]
    assert [state["records"]["seen"]["samples"] for state in both] == [9, 7]
    assert all(state["records"]["left"] == {} for state in both)
    assert shared_out([alone], 0, 1)["records"]["left"] == {"1": 7}


def test_the_evidence_of_all_ranks_is_one_processs() -> None:
    sieve = MemorizationFilter(signals=["loss"], record=[])
    sieve.load_state_dict(shared_out([saved(0, 1), saved(1, 1)], 0, 1)["filter"])
    assert sorted(sieve.groups.names) == ["g0", "g1"]


def test_states_of_different_runs_are_refused() -> None:
    other = saved(1, 1)
    other["data"]["windows"] = 4
    with pytest.raises(ValueError, match="of different runs"):
        shared_out([saved(0, 1), other], 0, 1)
