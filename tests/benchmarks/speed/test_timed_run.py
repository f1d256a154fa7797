"""The runs that are timed: their settings are what their names say, and what they count is what was read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.common import CONFIGS
from benchmarks.speed import timed_run
from benchmarks.speed.timed_run import (
    DEMONSTRATION_LIMITS,
    LIMITS,
    PASS_LIMITS,
    TURN,
    VARIANTS,
    TimedRun,
    planted_groups,
)
from memsieve.filtering import schedule
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.settings import load_settings
from memsieve.filtering.signals import OF_PREDICTIONS
from memsieve.train import held_out
from memsieve.train.config import RunConfig
from tests.benchmarks.planted_data import planted_data, planted_groups_of


def config_of(name: str) -> RunConfig:
    """With what TimedRun sets for all of them."""
    overrides = ["filter.held_out_per_window=null", *[item.format(audit="runs/an-audit") for item in VARIANTS[name]]]
    return load_settings(RunConfig, CONFIGS / "openmoji.yaml", overrides)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_is_what_it_is_called(name: str) -> None:
    run = config_of(name).filter
    assert run.enabled == (name != "no filter")
    if not run.enabled:
        return
    assert (run.rule == "threshold") == (name == "paper's rule")
    assert (run.apply == "sieve") == name.startswith("sieve") and run.policy == "drop"
    assert (run.signals == ["magnitude"]) == (name in ("batch: magnitude", "paper's rule"))
    decides = name.removeprefix("batch: ").replace(" ", "_")
    assert decides not in OF_PREDICTIONS or run.signals == [decides]
    recorded = [part.removesuffix(" recorded").replace(" ", "_") for part in name.split(", ") if "recorded" in part]
    assert run.record == recorded
    assert bool(run.audits) == name.endswith("looked up")
    if "budget" not in name:
        assert run.score_budget is None, "the default, as the page says"


def test_the_default_signal_is_the_default() -> None:
    default = RunConfig.model_fields["filter"].annotation
    assert default is not None
    assert config_of("batch: default signal").filter.signals == default().signals
    assert config_of("batch: default signal, magnitude recorded").filter.record == default().record


def test_the_named_budget_is_that_whose_quality_is_measured() -> None:
    shipped = yaml.safe_load((CONFIGS / "openmoji_sieve.yaml").read_text())["filter"]["score_budget"]
    assert config_of("sieve: frozen copy, budget 0.25").filter.score_budget == shipped == 0.25


def test_what_is_aimed_at_is_run() -> None:
    assert LIMITS.keys() | PASS_LIMITS.keys() | DEMONSTRATION_LIMITS.keys() <= VARIANTS.keys() - {"no filter"}


def test_a_turn_of_held_out_pairs_is_what_the_page_says() -> None:
    config = config_of("batch: default signal")
    assert list(held_out.held_out_turn(MemorizationFilter(config.filter), config.train, 128)) == TURN


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted_data(tmp_path_factory.mktemp("speed") / "data", [(2, 12)], 40, held_out=100, size=32)


def test_planted_groups_are_those_that_stand_there_more_than_once(data: Path) -> None:
    assert set(planted_groups(data)) == planted_groups_of(data) and len(planted_groups(data)) == 2


def test_at_the_loader_what_is_skipped_counts_as_read(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted pairs are condemned before the first window, and the held-out pairs know all of their draws."""
    monkeypatch.setattr(schedule, "SCORE_AFTER", schedule.SCORE_AFTER)  # what the run sets is set back after it
    monkeypatch.setattr(held_out, "DRAWS", held_out.DRAWS)
    monkeypatch.setattr(timed_run, "MODEL", model)
    run = TimedRun("sieve: frozen copy", data, tmp_path / "run", tmp_path / "no-audit")
    assert run.session.filter is not None and set(run.session.filter.condemned) == planted_groups_of(data)
    assert run.session.turns is not None and run.session.step >= run.session.turns.new_turns
    block, counts = run.block(4), run.session.records.accounting
    skipped = counts.dropped["condemned: skipped at the loader"]
    assert block["updates"] == 4 and block["read"] == counts.read and skipped > 0
    assert counts.trained == counts.read - skipped, "none of them is in a batch"
    assert counts.trained <= 4 * 16 < counts.read and block["seconds"] > 0.0
