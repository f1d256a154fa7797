"""Every calibrator and policy in whole runs, on models that predict the noise and on those that predict v."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memsieve.filtering.ledger import read_ledger
from memsieve.filtering.types import Reason
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from tests.train.conftest import middle_magnitude

pytestmark = pytest.mark.trains
MakeConfig = Callable[..., RunConfig]
MODES: dict[str, dict[str, Any]] = {
    "robust, every visit, reweight": {
        "signals": ["magnitude"], "rule": "z_score", "threshold": 0.0, "policy": "reweight",
    },
    "robust, two signals, drop": {
        "signals": ["magnitude", "loss_gap"], "rule": "z_score", "threshold": 0.0,
    },
    "conformal, all ratios": {
        "signals": ["loss", "reference_ratio", "magnitude_ratio"], "record": ["drift", "anchored_magnitude"],
    },
    "conformal, cosine, cap": {"signals": ["cosine"], "policy": "cap", "max_exposures": 2},
    "paper's rule": {"signals": ["magnitude"], "rule": "threshold", "threshold": 0.5},
    "paper's rule, anchored": {"signals": ["anchored_magnitude"], "rule": "threshold", "threshold": 0.5},
}  # fmt: skip


def finished(config: RunConfig) -> tuple[Session, dict[str, Any]]:
    session = set_up(config)
    return session, fit(session)


def weights(session: Session) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in session.model.parameters()])


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("mode", MODES)
def test_modes_account_for_everything(make_config: MakeConfig, tiny_v_model: Path, mode: str, prediction: str) -> None:
    model = {"path": str(tiny_v_model)} if prediction == "v" else {}
    # So slowly that the magnitudes stay where they are: while they fall, held-out pairs measured earlier lie above all.
    config = make_config(
        filter={**MODES[mode], "ledger_kept": True}, model=model, train={"steps": 8}, optimizer={"lr": 1e-5}
    )
    if mode.startswith("paper's rule"):
        [signal] = config.filter.signals
        config.filter.threshold = middle_magnitude(config, signal)
    session, summary = finished(config)
    assert session.denoiser.prediction_type == ("v_prediction" if prediction == "v" else "epsilon")
    assert summary["read"] == 64 and summary["remainder"] == 0
    assert torch.isfinite(weights(session)).all()
    ledger = read_ledger(config.output / "ledger").to_pylist()
    assert len(ledger) == 64
    for name in config.filter.measured:  # of visits without their caption nothing is measured
        assert any(row[name] is not None for row in ledger), name
    assert all(0.0 <= row["weight"] <= 1.0 for row in ledger)
    assert sum(row["weight"] == 0.0 for row in ledger) == sum(summary["dropped"].values())
    if mode != "conformal, all ratios":  # too short a run to condemn by evidence
        assert any(row["weight"] < 1.0 for row in ledger), "the mode never acted"


def test_observing_changes_nothing(make_config: MakeConfig) -> None:
    watched, _ = finished(make_config("watched", filter={"policy": "observe", "signals": ["reference_residual"]}))
    alone, _ = finished(make_config("alone", filter={"enabled": False}))
    assert torch.equal(weights(watched), weights(alone))


def test_a_condemned_pair_goes_on_without_its_caption(make_config: MakeConfig) -> None:
    loose = {"signals": ["loss"], "record": [], "false_drop_rate": 0.98, "held_out_per_window": 24,
             "ledger_kept": True}  # fmt: skip
    config = make_config("caption", filter={**loose, "policy": "caption"}, train={"steps": 14})
    session, summary = finished(config)
    rows = read_ledger(config.output / "ledger").to_pylist()
    without = [row for row in rows if row["action"] == "caption"]
    condemned = {row["group"] for row in without}
    assert without and summary["condemned_groups"] >= len(condemned) > 0
    assert all(row["weight"] == 1.0 and row["reason"] == Reason.CONDEMNED for row in without)
    assert summary["trained"] == len(rows) == 14 * 8 and summary["dropped"] == {}
    first = {row["group"]: row["step"] for row in reversed(without)}
    later = [row for row in rows if row["step"] > first.get(row["group"], 99)]
    assert later and all(row["action"] == "caption" for row in later), "it keeps going without"
    watched, _ = finished(make_config("observed", filter={**loose, "policy": "observe"}, train={"steps": 14}))
    assert not torch.equal(weights(session), weights(watched)), "the captions were there all the same"
