"""The methods: each is a config that training takes, and what is published is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.copying.cell import _rule, config_of
from benchmarks.copying.found import PART
from benchmarks.copying.methods import METHODS, NAMES, SMALL_STOPS, STOPS, STREAMS, TIERS, filter_of
from benchmarks.copying.plan import PAPER, Cell, Plan, Protocol
from benchmarks.copying.plots import DRAWN
from benchmarks.copying.rivals import LossBelowAverage, RandomDrop
from memsieve.train.config import RunConfig

PROTOCOL = Protocol("assets/tiny-sd", resolution=32)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.trained])
def test_a_method_is_a_config_that_training_takes(name: str, tmp_path: Path) -> None:
    plan, tuned = Plan(tmp_path, tmp_path, PROTOCOL), 3.5 if name in PAPER else None
    config = config_of(plan, Cell(name, "mixed", 0), 2400, tuned)
    method = METHODS[name]
    assert config.train.steps == round(1500 * method.share)
    assert config.data.path == str(plan.work / "data" / "mixed-seed0" / method.part)
    assert config.train.caption_dropout == (0.1 if method.caption_dropout is None else method.caption_dropout)
    assert config.filter.enabled == bool(filter_of(method).get("enabled", True))
    if name in PAPER:
        assert config.filter.rule == "threshold" and config.filter.threshold == 3.5


def test_ours_are_what_they_are_called(tmp_path: Path) -> None:
    def of(name: str) -> tuple[str, str, list[str]]:
        made = config_of(Plan(tmp_path, tmp_path, PROTOCOL), Cell(name, "mixed", 0), 800, None).filter
        return made.apply, made.policy, [str(signal) for signal in made.signals]

    assert of("ours") == ("batch", "drop", ["reference_residual"])
    assert of("ours_reweight") == ("batch", "reweight", ["reference_residual"])
    assert of("ours_sieve") == of("dedup_sieve") == ("sieve", "drop", ["reference_residual"])
    assert of("found_all") == of("found_once") == of("ours_sieve")
    assert of("ours_magnitude")[2] == ["magnitude"] and of("ours_ratio")[2] == ["reference_ratio"]


def test_small_sets_are_asked_by_drawings_and_rivals_are_what_they_are_called(tmp_path: Path) -> None:
    def of(name: str) -> RunConfig:
        return config_of(Plan(tmp_path, tmp_path, PROTOCOL), Cell(name, "small 20", 0), 20, None)

    retire = of("retire")
    assert (retire.filter.policy, retire.filter.rule) == ("retire", "recall") and retire.train.steps == 750
    assert retire.validation.held_out_pairs == 64 and of("watched").filter.policy == "observe"
    assert [of(name).model.lora.rank for name in ("lora_4", "lora_16")] == [4, 16]  # type: ignore[union-attr]
    assert len(of("prior").prior.prompts) == 20 and not of("prior").filter.enabled and not of("retire").prior.prompts
    assert of("retire_prior").prior.prompts and of("dropout_3").train.caption_dropout == 0.3
    assert of("cap_25").filter.max_exposures == 25 and of("stop_32").train.steps == 23
    assert set(SMALL_STOPS) <= {method for _, methods, _ in TIERS[3] for method in methods}


def test_found_groups_are_taken_by_the_run_or_by_deduplication(tmp_path: Path) -> None:
    def of(name: str) -> tuple[str, str | None, str | int]:
        data = config_of(Plan(tmp_path, tmp_path, PROTOCOL), Cell(name, "mixed", 0), 800, None).data
        return Path(str(data.path)).name, data.groups, data.repeats

    table = str(tmp_path / "data" / "mixed-seed0" / "found" / "groups.parquet")
    assert of("found_all") == ("stream", table, "all") and of("found_once") == ("stream", table, "once")
    assert of("dedup_found") == (PART, None, "all") and of("ours_sieve") == ("stream", None, "all")
    assert filter_of(METHODS["found_once"]) == filter_of(METHODS["ours_sieve"]), "repeats are no affair of the filter"


def test_rivals_bring_a_rule_of_their_own() -> None:
    assert isinstance(_rule(Cell("iet_agc", "mixed", 0), None), LossBelowAverage)
    assert isinstance(_rule(Cell("random_drop", "mixed", 0), 0.2), RandomDrop)
    assert _rule(Cell("ours", "mixed", 0), None) is None


def test_what_is_published_exists_and_has_a_name() -> None:
    for rows in TIERS.values():
        for stream, methods, seeds in rows:
            assert stream in STREAMS and seeds and set(methods) <= set(METHODS) & set(NAMES)
    assert set(STOPS) <= set(METHODS) and set(DRAWN) <= set(NAMES)
    first = {stream: methods for stream, methods, _ in TIERS[1]}
    assert set(STOPS) <= set(first["mixed"]), "the best early stop is chosen among all of them"


def test_the_papers_stream_drops_no_captions_for_anybody(tmp_path: Path) -> None:
    plan = Plan(tmp_path, tmp_path, PROTOCOL)
    assert config_of(plan, Cell("none", "paper", 0), 800, None).train.caption_dropout == 0.0


def test_nothing_is_measured_by_a_method_that_ranks_pairs_without_a_filter() -> None:
    for method in METHODS.values():
        if not filter_of(method).get("enabled", True):
            assert method.score in ("removed", "")
