"""Runs with aspect-ratio buckets: two ranks are one process with drops on, a resume is bit-equal, and held-out
pairs, caches and audits are of the training pairs' shapes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.denoisers.cached import CachedDenoiser
from memsieve.filtering.ledger import read_ledger
from memsieve.filtering.settings import SettingsError
from memsieve.filtering.types import Reason
from memsieve.train.batch import build_batch
from memsieve.train.config import RunConfig
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.dry_run import dry_run
from memsieve.train.loop import fit, window_batches
from memsieve.train.measure import Scorer
from memsieve.train.network import frozen_copy
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from memsieve.train.visits import draw_visits, plain_samples
from tests.filtering.data.of_sizes import BUCKETS, write_shards
from tests.tiny_models import tiny_family
from tests.train.conftest import tiny_config

pytestmark = pytest.mark.trains
SHAPES = {(16, 16), (12, 20), (20, 12)}
SAME = ["step", "key", "group", "stream", "epoch", "offset", "action", "reason", "timestep", "weight"]
COUNT, LOST, TAU = 34, ["003", "011", "020"], 0.5
SGD = {"name": "sgd", "lr": 0.1, "weight_decay": 0.0, "schedule": "linear"}
MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def sized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Section ``data``: 34 pairs of three shapes in shards, 20 held out."""
    folder = tmp_path_factory.mktemp("sized")
    for name in ("train", "held_out"):
        (folder / name).mkdir()
    train, held_out = write_shards(folder / "train", COUNT), write_shards(folder / "held_out", 20, first=100)
    return {"path": train, "held_out_path": held_out, "resolution": 16, "buckets": BUCKETS, "streams": 4,
            "shuffle_buffer": 5}  # fmt: skip


@pytest.fixture(scope="session")
def make_sized(make_shared_config: MakeConfig, sized: dict[str, Any]) -> MakeConfig:
    def make(output: str, **sections: dict[str, Any]) -> RunConfig:
        return make_shared_config(f"sized/{output}", **{**sections, "data": {**sized, **sections.get("data", {})}})

    return make


def vector(session: Session) -> torch.Tensor:
    weights = session.model.state_dict()
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


def by_threshold(batch: int, accumulation: int) -> dict[str, Any]:
    """Two passes, padded windows among them; magnitudes above and below the threshold."""
    return {"filter": {"signals": ["magnitude"], "rule": "threshold", "threshold": TAU, "ledger_kept": True},
            "train": {"epochs": 2, "steps": None, "batch_size": batch, "accumulation": accumulation},
            "optimizer": SGD}  # fmt: skip


def by_history(batch: int, accumulation: int) -> dict[str, Any]:
    """Evidence per pair, so loose that some are condemned."""
    return {"filter": {"signals": ["loss"], "record": ["magnitude"], "false_drop_rate": 0.98,
                       "held_out_per_window": 12, "ledger_kept": True},
            "train": {"steps": 48, "batch_size": batch, "accumulation": accumulation},
            "optimizer": {**SGD, "lr": 0.3, "schedule": "constant"}}  # fmt: skip


def by_sieve(batch: int, accumulation: int) -> dict[str, Any]:
    """At the loader; measuring is free, so that the schedule does not depend on the number of ranks."""
    return {"filter": {"apply": "sieve", "signals": ["loss"], "record": [], "score_budget": 1.0,
                       "false_drop_rate": 0.98, "held_out_per_window": 12, "ledger_kept": True, "always_drop": LOST},
            "train": {"steps": 36, "batch_size": batch, "accumulation": accumulation},
            "optimizer": {**SGD, "lr": 0.3, "schedule": "constant"}}  # fmt: skip


KINDS = {"threshold": by_threshold, "history": by_history, "sieve": by_sieve}


@pytest.fixture(scope="module")
def two(make_sized: MakeConfig, run_ranks: Callable[..., Any]) -> Any:
    """Each kind on two ranks, two batches a window."""
    jobs = [
        {"name": name, "config": make_sized(f"two-{name}", **sections(2, 2)).model_dump(mode="json"), "twist": ""}
        for name, sections in KINDS.items()
    ]
    return run_ranks("ddp", jobs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_are_one_process(two: Any, make_sized: MakeConfig, kind: str) -> None:
    config = make_sized(f"one-{kind}", **KINDS[kind](8, 1))
    session = set_up(config)
    start = vector(session)
    summary = fit(session)
    theirs = two.outcomes[0][kind]["summary"]
    for name in ("read", "trained", "dropped", "remainder", "steps", "updates", "groups", "condemned_groups"):
        assert summary[name] == theirs[name], name
    assert sum(summary["dropped"].values()) >= 3 and summary["trained"] >= 15
    mine = read_ledger(config.output / "ledger").select(SAME)
    ledger = read_ledger(config.output.with_name(f"two-{kind}") / "ledger").select(SAME)
    assert mine.equals(ledger)
    apart = float((two.weights(kind) - vector(session)).norm() / (vector(session) - start).norm())
    assert apart <= 1e-5
    if kind == "threshold":
        assert summary["steps"] == 2 * (3 + 2 + 1), "of 17, 10 and 7 pairs, eight a window"
        visits = Counter((row["epoch"], row["key"]) for row in mine.to_pylist())
        assert visits == {(epoch, f"{n:03d}"): 1 for epoch in (0, 1) for n in range(COUNT)}, "every sample once a pass"
    if kind == "sieve":
        lost = Counter(row["key"] for row in mine.to_pylist() if row["reason"] == Reason.ALWAYS_DROP)
        assert set(lost) == set(LOST) and summary["dropped"]["condemned: skipped at the loader"] >= 3
    if kind != "threshold":
        assert 0 < summary["condemned_groups"] < summary["groups"]


@pytest.mark.parametrize("kind", [pytest.param("history", marks=pytest.mark.slow), "sieve"])
def test_a_resumed_run_is_bit_equal(make_sized: MakeConfig, kind: str) -> None:
    """Stopped where rows wait for their window."""
    sections = {**KINDS[kind](8, 1), "checkpoint": {"every": 0, "final": True}}
    stops = (31, 40) if kind == "history" else (27, 36)
    sections["train"]["steps"] = stops[1]
    whole = set_up(make_sized(f"whole-{kind}", **sections))
    fit(whole)
    config = make_sized(f"parts-{kind}", **sections)
    for steps in stops:
        config.train.steps = steps
        session = set_up(config)
        if steps == stops[1]:
            assert session.step == stops[0]
            assert session.loader.state_dict()["order"], "rows wait"
        fit(session)
    assert torch.equal(vector(session), vector(whole))
    ledgers = [read_ledger(one.config.output / "ledger") for one in (session, whole)]
    assert ledgers[0].equals(ledgers[1]) and any(row["action"] == "drop" for row in ledgers[0].to_pylist())


def test_held_out_pairs_are_scored_with_their_like(make_sized: MakeConfig) -> None:
    session = set_up(make_sized("held-out", filter={"held_out_per_window": 8, "false_drop_rate": 0.1}))
    turns, scorer = session.turns, session.scorer
    assert turns is not None and scorer is not None and session.filter is not None
    assert [len(part) for part in turns.parts] == [8, 2, 6, 4], "of 10, 6 and 4"
    assert all(len({row.pixels.shape for row in part}) == 1 for part in turns.parts)
    names = [row.group for part in turns.parts for row in part]
    assert sorted(names) == sorted(row.group for row in session.held_out)
    drawn: list[tuple[int, int]] = []
    scored: list[str] = []
    calibrate = session.filter.calibrate
    session.filter.calibrate = lambda groups, found: (scored.extend(groups), calibrate(groups, found))[1]  # type: ignore[method-assign]
    for step in range(40):
        if (turn := turns.at(step)) is not None and len(drawn) < 4:
            drawn.append(turn)
            turns.score(step, scorer)
    assert drawn == [(0, 0), (1, 0), (2, 0), (3, 0)] and sorted(scored) == sorted(names)
    said = dry_run(session.config)
    assert "20 held-out pairs" in said and "reference" in said


def test_a_cache_holds_each_shape_and_the_run_is_the_live_one(make_sized: MakeConfig, tmp_path: Path) -> None:
    sections = by_threshold(8, 1)
    live = set_up(make_sized("live", **sections))
    fit(live)
    sections["train"]["cache"] = str(tmp_path / "cache")
    session = set_up(make_sized("cached", **sections))
    fit(session)
    assert isinstance(session.denoiser, CachedDenoiser) and session.denoiser.misses == 0
    ledgers = [read_ledger(one.config.output / "ledger").select(SAME) for one in (live, session)]
    assert ledgers[0].equals(ledgers[1])
    assert torch.allclose(vector(live), vector(session), atol=1e-6)


def test_a_reference_is_looked_up_in_an_audit_of_the_same_buckets(
    make_sized: MakeConfig, sized: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    """An audit draws for each pair a latent of its own shape, and a run meets it there."""

    def audited(name: str, **more: Any) -> str:
        data = {"path": [sized["path"], sized["held_out_path"]], "resolution": 16, **more}
        config = AuditConfig.model_validate(
            {"data": data, "model": str(tiny_model), "seed": 3, "draws": 2, "batch_size": 3}
        )
        assert not score_shards(config, tmp_path / name, device="cpu").failed
        return str(tmp_path / name)

    def sections(audit: str) -> dict[str, Any]:
        return {"filter": {"apply": "sieve", "reference": audit, "signals": ["reference_ratio", "magnitude_ratio"],
                           "record": [], "false_drop_rate": 0.2, "score_budget": 1.0}}  # fmt: skip

    session = set_up(make_sized("looked-up", **sections(audited("same", buckets=BUCKETS))))
    scorer, known = session.scorer, session.looked_up
    assert scorer is not None and known is not None and scorer.reference is None
    copy = frozen_copy(session.denoiser.model, torch.float32)
    with torch.no_grad():  # the model has moved
        for parameter in session.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    computing = Scorer(session.denoiser, scorer.filter, scorer.model, copy)
    settings, shapes = DrawSettings(seed=3, resolution=16), set()
    for window in session.loader:
        rows = [row for row in window.rows if row is not None]
        if window.shape in shapes:
            continue
        shapes.add(window.shape)
        latent = session.denoiser.latent_shape(*window.shape)
        draws = [(1, known.draw(row.group, 1, latent)) for row in rows]
        batch = build_batch(
            session.denoiser, draw_visits(session.denoiser, plain_samples(rows, settings), settings, draws)
        )
        found, expected = scorer.measure(batch).signals, computing.measure(batch).signals
        for name in ("reference_ratio", "magnitude_ratio"):
            assert torch.allclose(found[name], expected[name], atol=2e-4), (name, window.shape)
        assert expected["reference_ratio"].abs().max() > 1e-3, "the model is not the base any more"
        if len(shapes) == 3:
            break
    with pytest.raises(SettingsError, match="was made with buckets None, and this run has .*audit with data.buckets"):
        set_up(make_sized("other", **sections(audited("square"))))


def test_what_a_model_cannot_do_is_refused_by_the_shape(make_sized: MakeConfig) -> None:
    with pytest.raises(
        ValueError, match="data.buckets: 19x13 must be a multiple of 2 for this model's VAE, on each side"
    ):
        set_up(make_sized("uneven", data={"buckets": ["16x16", "19x13"]}))
    config = make_sized(
        "resumed", checkpoint={"every": 0, "final": True}, train={"steps": 2}, filter={"enabled": False}
    )
    fit(set_up(config))
    config.data.buckets = ["16x16"]
    with pytest.raises(ValueError, match=r"'data\.buckets' is \['16x16'\] but the run .* was started with"):
        set_up(config)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdxl")
    tiny_family("sdxl").save_pretrained(folder, safe_serialization=True)
    return folder


def test_a_model_is_asked_for_squares_and_looked_at_in_the_shapes_it_learns(make_sized: MakeConfig) -> None:
    session = set_up(make_sized("asked", filter={"policy": "retire", "copy_rate": 0.02, "recall_budget": 1.0},
                                train={"steps": 4}, validation={"every": 2, "copy_groups": 0}))  # fmt: skip
    probe = session.recall
    assert probe is not None and {row.pixels.shape[1:] for row in session.training_rows} == SHAPES
    assert {row.pixels.shape[1:] for row in [*probe.pairs.rows, *probe.held_out]} == {(16, 16)}
    fit(session)
    assert probe.rule.evidence.rounds == 1 and sum(probe.rule.evidence.asked.values()) == probe.round
    assert len(session.overfits.looks) >= 2


def test_sdxl_is_told_the_size_that_it_sees(sdxl: Path, sized: dict[str, Any], tmp_path: Path) -> None:
    """Height before width: original size, corner of the crop, target size."""
    config = tiny_config(sdxl, tmp_path, tmp_path / "run", data=sized, filter={"false_drop_rate": 0.2})
    session = set_up(config)
    told: dict[Any, torch.Tensor] = {}
    for window in session.loader:
        batch = window_batches(session, window)[0]
        assert session.filter is not None
        session.model.register_forward_pre_hook(
            lambda module, args, kwargs: told.update({batch.noisy.shape[2:]: kwargs["added_cond_kwargs"]["time_ids"]}),  # noqa: B023
            with_kwargs=True,
        )
        with torch.no_grad():
            session.denoiser.predict(session.model, batch.noisy, batch.timesteps, batch.conditioning)
        session.filter._known = None
        if len(told) == 3:
            break
    factor = session.denoiser.vae_factor
    for (height, width), ids in told.items():
        size = [float(height * factor), float(width * factor)]
        assert ids.tolist() == [[*size, 0.0, 0.0, *size]] * len(ids)
    assert {tuple(side * factor for side in shape) for shape in told} == SHAPES


def test_the_windows_of_a_run_with_epochs_are_counted_before_it(make_sized: MakeConfig) -> None:
    config = make_sized("epochs", train={"epochs": 2, "steps": None}, filter={"enabled": False},
                        optimizer={"lr": 1e-3, "schedule": "linear"})  # fmt: skip
    session = set_up(config)
    assert session.total_steps == 12
    fit(session)
    assert session.step == 12 and session.schedule.get_last_lr() == pytest.approx([0.0])
    assert json.loads((config.output / "summary.json").read_text())["remainder"] == 0
