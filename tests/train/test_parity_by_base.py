"""Two ranks do what one process does where predictions are compared with those of the model before fine-tuning: drops
on, full and LoRA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from memsieve.filtering.ledger import read_ledger
from memsieve.filtering.signals import OF_PREDICTIONS
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.session import Session
from memsieve.train.set_up import set_up

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MakeConfig = Callable[..., RunConfig]
SAME = ["step", "key", "shard", "index", "group", "stream", "epoch", "offset", "action", "reason", "timestep", "weight"]
LORA = {"rank": 4, "target_modules": ["to_k", "to_q", "to_v", "to_out.0", "conv1", "conv2"]}
SMALL: dict[bool, dict[str, Any]] = {False: {}, True: {"model": {"lora": LORA, "gradient_checkpointing": True}}}
LEARNING = {False: 0.3, True: 1.0}


def by_pairs(adapted: bool, batch: int, accumulation: int) -> dict[str, Any]:
    """Evidence of pairs, loose enough that some are condemned in a few steps, whatever the model; both are recorded of
    every sample."""
    return SMALL[adapted] | {
        "filter": {"signals": ["loss", "reference_residual"], "record": ["drift", "anchored_magnitude", "magnitude"],
                   "false_drop_rate": 0.98, "held_out_per_window": 24, "ledger_kept": True},
        "train": {"steps": 20, "batch_size": batch, "accumulation": accumulation},
        "optimizer": {"name": "sgd", "lr": LEARNING[adapted], "weight_decay": 0.0, "schedule": "constant"},
    }  # fmt: skip


def by_visits(adapted: bool, batch: int, accumulation: int, tau: float) -> dict[str, Any]:
    """The paper's rule with an anchor; the drift is recorded."""
    return SMALL[adapted] | {
        "filter": {"signals": ["anchored_magnitude"], "record": ["magnitude", "drift"], "rule": "threshold",
                   "threshold": tau, "ledger_kept": True},
        "train": {"steps": 4, "batch_size": batch, "accumulation": accumulation},
        "optimizer": {"name": "sgd", "lr": LEARNING[adapted], "weight_decay": 0.0, "schedule": "constant"},
    }  # fmt: skip


def trained(weights: dict[str, torch.Tensor], names: list[str]) -> torch.Tensor:
    return torch.cat([weights[name].flatten().float() for name in names])


def run_alone(config: RunConfig) -> tuple[list[str], torch.Tensor, torch.Tensor]:
    """(names of what is trained, its values before, and after)."""
    session: Session = set_up(config)
    names = sorted(name for name, p in session.model.named_parameters() if p.requires_grad)
    before = trained({n: p.detach().clone() for n, p in session.model.named_parameters()}, names)
    fit(session)
    return names, before, trained({n: p.detach() for n, p in session.model.named_parameters()}, names)


def compare(one: Path, two: Path) -> pa.Table:
    """The same verdicts, and the same numbers to a rounding; one process's ledger."""
    ledgers = [read_ledger(folder / "ledger") for folder in (one, two)]
    assert ledgers[0].select(SAME).equals(ledgers[1].select(SAME)), "verdicts differ"
    for name in (*sorted(OF_PREDICTIONS), "magnitude"):
        single, double = (np.array(table[name].to_pylist(), dtype=np.float64) for table in ledgers)
        assert np.isfinite(single).any(), name
        assert np.allclose(single, double, rtol=1e-3, atol=1e-4, equal_nan=True), name
    return ledgers[0]


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("engine", ["ddp", "zero2", "zero3"])
def test_two_ranks_are_one_process_against_the_base(
    make_config: MakeConfig, run_ranks: Any, tmp_path: Path, engine: str, adapted: bool
) -> None:
    alone = run_alone(make_config("one-pairs", **by_pairs(adapted, 24, 1)))
    probe = make_config("probe", **by_visits(adapted, 24, 1, tau=1e9))
    fit(set_up(probe))
    read = [v for v in read_ledger(probe.output / "ledger")["anchored_magnitude"].to_pylist() if v is not None]
    ordered = np.sort(read)  # a tau in the widest gap of the middle half, so that no rounding decides
    middle = ordered[len(ordered) // 4 : 3 * len(ordered) // 4]
    widest = int(np.argmax(np.diff(middle)))
    tau = float(middle[widest : widest + 2].mean())
    visits = run_alone(make_config("one-visits", **by_visits(adapted, 24, 1, tau)))
    jobs = [("pairs", by_pairs(adapted, 6, 2)), ("visits", by_visits(adapted, 6, 2, tau))]
    ranks = run_ranks(
        engine, [{"name": name, "config": make_config(name, **job).model_dump(mode="json")} for name, job in jobs]
    )
    for name, (names, before, after) in (("pairs", alone), ("visits", visits)):
        ledger = compare(tmp_path / f"one-{name}", tmp_path / name)
        assert {"keep", "drop"} <= set(ledger["action"].to_pylist()), "some but not all are dropped"
        apart = float((trained(ranks.state(name)["weights"], names) - after).norm() / (after - before).norm())
        assert apart < 1e-4, name
    tables = [pq.read_table(tmp_path / folder / "groups.parquet") for folder in ("one-pairs", "pairs")]
    exact = ["group", "exposures", "trained", "scored", "dropped", "condemned_step"]
    assert tables[0].select(exact).equals(tables[1].select(exact))
    steps = tables[0]["condemned_step"].to_pylist()
    assert 0 < sum(step is not None and step >= 0 for step in steps) < len(steps)
