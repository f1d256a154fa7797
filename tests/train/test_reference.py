"""The reference looked up in an audit of the base model: the same numbers as a frozen copy, at no forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.ledger import read_ledger
from memsieve.train.batch import build_batch
from memsieve.train.config import RunConfig
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.loop import fit
from memsieve.train.measure import Scorer
from memsieve.train.network import frozen_copy
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from memsieve.train.visits import draw_visits, plain_samples

pytestmark = pytest.mark.trains
MakeConfig = Callable[..., RunConfig]
DRAWS = 6


@pytest.fixture(scope="module")
def audit(tiny_model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six draws of all training and held-out pairs by the base model."""
    out = tmp_path_factory.mktemp("audit")
    data = {"path": [str(shards / "train"), str(shards / "held_out")], "resolution": 16}
    config = AuditConfig.model_validate({"data": data, "model": str(tiny_model), "seed": 3, "draws": DRAWS})
    assert not score_shards(config, out, device="cpu").failed
    return str(out)


def sections(audit: str, **filter: Any) -> dict[str, Any]:
    base = {"apply": "sieve", "reference": audit, "signals": ["reference_ratio", "magnitude_ratio"], "record": [],
            "false_drop_rate": 0.2, "score_budget": 1.0, "ledger_kept": True}  # fmt: skip
    return {"filter": {**base, **filter}, "train": {"steps": 8}}


def make(make_config: MakeConfig, name: str, audit: str, **filter: Any) -> RunConfig:
    return make_config(name, **sections(audit, **filter))


def test_looked_up_equals_computed(make_config: MakeConfig, audit: str) -> None:
    session = set_up(make(make_config, "run", audit))
    assert session.looked_up is not None and session.scorer is not None and session.scorer.reference is None
    rows = [row for row in next(iter(session.loader)).rows if row is not None]
    with torch.no_grad():  # the model has moved
        for parameter in session.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    copy = frozen_copy(set_up(make(make_config, "other", audit)).denoiser.model, torch.float32)
    computing = Scorer(session.denoiser, session.filter, session.scorer.model, copy)  # type: ignore[arg-type]
    settings = DrawSettings(seed=3, resolution=16)
    for visit in (0, DRAWS - 1):
        draws = [(visit, session.looked_up.draw(row.group, visit)) for row in rows]
        samples = plain_samples(rows, settings)
        batch = build_batch(session.denoiser, draw_visits(session.denoiser, samples, settings, draws))
        found, expected = session.scorer.measure(batch).signals, computing.measure(batch).signals
        for name in ("reference_ratio", "magnitude_ratio"):
            assert torch.allclose(found[name], expected[name], atol=2e-4), name
        assert expected["reference_ratio"].abs().max() > 1e-3, "the model is not the base any more"


def forwards(session: Session) -> list[tuple[str, int]]:
    """Counts the rows that go through the model in training without gradients, and through a frozen copy."""
    counted: list[tuple[str, int]] = []

    def watch(name: str, model: torch.nn.Module) -> None:
        model.register_forward_pre_hook(
            lambda module, args: counted.append((name, len(args[0]))) if not torch.is_grad_enabled() else None
        )

    watch("model", session.model)
    if session.scorer is not None and session.scorer.reference is not None:
        watch("copy", session.scorer.reference)
    return counted


@pytest.mark.usefixtures("from_the_first_visit")
def test_training_pays_no_forward_for_it(make_config: MakeConfig, audit: str) -> None:
    config = make(make_config, "run", audit, signals=["reference_residual"])
    config.validation.held_out_pairs = 0
    session = set_up(config)
    counted = forwards(session)
    summary = fit(session)
    assert summary["remainder"] == 0
    assert {name for name, _ in counted} == {"model"}
    assert len(counted) == 8 + 2, "held-out pairs once a window, and both passes of the last validation's probe"
    rows = read_ledger(config.output / "ledger").to_pylist()
    scored = [row for row in rows if row["reference_ratio"] is not None]
    assert len(scored) > 30 and len(rows) == 64
    by_group: dict[str, list[int]] = {}
    for row in scored:
        visit = len(by_group.setdefault(row["group"], []))
        assert row["timestep"] == session.looked_up.draw(row["group"], visit).timestep  # type: ignore[union-attr]
        by_group[row["group"]].append(row["timestep"])
    assert max(len(visits) for visits in by_group.values()) <= DRAWS


def test_beyond_the_audited_draws_a_frozen_copy_can_go_on(make_config: MakeConfig, audit: str) -> None:
    options: dict[str, Any] = {"signals": ["reference_ratio"], "beyond": "frozen"}
    config = make(make_config, "frozen", audit, **options)
    config.train.steps = 20
    session = set_up(config)
    counted = forwards(session)
    fit(session)
    assert sum(name == "copy" for name, _ in counted) > 0
    rows = [row for row in read_ledger(config.output / "ledger").to_pylist() if row["reference_ratio"] is not None]
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["group"]] = counts.get(row["group"], 0) + 1
    assert max(counts.values()) > DRAWS, "the pair with 17 copies"
    skipping = make(make_config, "skipping", audit, **{**options, "beyond": "skip"})
    skipping.train.steps = 20
    fit(set_up(skipping))
    drawn = set_up(skipping.model_copy(update={"output": skipping.output.parent / "fresh"}))
    assert drawn.scorer is not None and drawn.scorer.reference is None


def test_resumed_equals_uninterrupted(make_config: MakeConfig, audit: str) -> None:
    whole, half = (make(make_config, name, audit) for name in ("whole", "half"))
    fit(set_up(whole))
    half.checkpoint.every, half.train.steps = 4, 5
    fit(set_up(half))
    half.train.steps = 8
    fit(set_up(half))
    assert read_ledger(half.output / "ledger").equals(read_ledger(whole.output / "ledger"))


def test_an_audit_that_does_not_fit_is_refused(
    make_config: MakeConfig, audit: str, tiny_v_model: Path, shards: Path, tmp_path: Path
) -> None:
    def refused(message: str, **changes: dict[str, Any]) -> None:
        parts = sections(audit)
        for section, values in changes.items():
            parts[section] = {**parts.get(section, {}), **values}
        with pytest.raises(ValueError, match=message):
            set_up(make_config("refused", **parts))

    refused(r"made with model .*audit the model that model\.path names", model={"path": str(tiny_v_model)})
    refused(r"train\.random_tokens changes them", train={"random_tokens": 2})
    refused(r"is not an audit: it has no audit\.json", filter={"reference": str(tmp_path)})
    refused(r"set filter\.apply: sieve, or filter\.reference: frozen", filter={"apply": "batch"})
    held_out = tmp_path / "only-training"
    data = {"path": str(shards / "train"), "resolution": 16}
    some = {"data": data, "model": str(make_config("x").model.path), "seed": 3, "draws": 2}
    score_shards(AuditConfig.model_validate(some), held_out, device="cpu")
    refused(r"24 of 24 held-out pairs are not in .*audit data\.held_out_path too", filter={"reference": str(held_out)})
