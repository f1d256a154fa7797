"""Every method's settings are settings that exist, and do what its name says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.common import CONFIGS
from benchmarks.quality.cell import PAPER, Cell, Plan, Protocol, _rule
from benchmarks.quality.methods import METHODS, NAMES, Method, filter_of
from benchmarks.quality.plots import LINES
from benchmarks.quality.run import NOTHING, SMALL
from memsieve.filtering.config import FilterConfig
from memsieve.filtering.settings import SettingsError, load_settings
from memsieve.train.config import RunConfig

AUDIT = "runs/an-audit"


def settings_of(method: Method) -> RunConfig:
    """As the trainer reads them, of data that are not looked at."""
    laid_over = [setting.format(audit=AUDIT) for setting in method.settings]
    return load_settings(RunConfig, CONFIGS / method.config, laid_over)


@pytest.mark.parametrize("name", METHODS)
def test_the_settings_parse_and_the_published_filter_section_is_what_is_run(name: str) -> None:
    method = METHODS[name]
    assert method.name == name and method.part in ("stream", "oracle", "dedup", "dedup_phash")
    assert method.score in ("evidence", "margin", "removed", "exposures", "")
    said, run = filter_of(method), settings_of(method).filter
    if said == {"enabled": False}:
        assert not method.trained or not run.enabled
        assert method.score in ("removed", ""), "nothing is measured by which pairs could be ranked"
        return
    if "filter.reference={audit}" in method.settings:
        said["reference"] = AUDIT
    assert FilterConfig(**said) == run
    if method.config == "random_tokens.yaml":
        return
    assert run.enabled and (method.score != "evidence" or run.rule == "evidence")
    assert ("at the loader" in NAMES.get(name, "")) == (run.apply == "sieve")


def test_a_setting_that_there_is_not_is_refused() -> None:
    with pytest.raises(SettingsError, match="half_life"):
        settings_of(Method("wrong", settings=("filter.half_life=9",)))


def test_a_name_says_what_is_set() -> None:
    of = {name: settings_of(method).filter for name, method in METHODS.items()}
    (visits,) = re.findall(r"cap: (\d+) visits a pair", NAMES["cap"])
    assert of["cap"].policy == "cap" and of["cap"].max_exposures == int(visits)
    assert of["ours_ratio"].signals == ["reference_ratio"] and of["ours_magnitude"].signals == ["magnitude"]
    assert of["observe"].policy == "observe" and of["observe"].signals == of["ours"].signals
    assert of["ours_thrifty"].score_budget is None and of["ours_sieve"].score_budget is not None
    assert of["ours_lookup"].audits == [AUDIT] and not of["ours_sieve"].audits
    assert METHODS["ours_phash"].grouped and not METHODS["ours_sieve"].grouped
    for name in PAPER:
        assert (of[name].rule, of[name].signals, of[name].policy) == ("threshold", ["magnitude"], "drop")
        assert METHODS[name].caption_dropout == 0.0, "its page says that no captions are dropped"
    random_tokens = settings_of(METHODS["random_tokens"])
    assert not random_tokens.filter.enabled and random_tokens.train.random_tokens == 1


def test_of_the_methods_with_a_rule_of_the_benchmark_the_visits_are_tested_by_it_alone() -> None:
    """The threshold of the settings, which no visit reaches, gives way to the rival's own rule."""
    for name, method in METHODS.items():
        rule = _rule(Cell(name, "planted", 0), 0.3)
        run = settings_of(method).filter
        assert (rule is not None) == (name in ("iet_agc", "random_drop")), name
        if rule is not None:
            assert (run.rule, run.threshold, run.signals) == ("threshold", 1e9, ["loss"])


def test_every_method_that_is_published_has_a_name_and_a_line_has_its_method() -> None:
    assert set(SMALL) <= NAMES.keys() and LINES.keys() <= set(SMALL) and set(NOTHING) <= METHODS.keys()
    assert NAMES.keys() <= METHODS.keys() and len(set(NAMES.values())) == len(NAMES)
    assert not [name for name in SMALL if METHODS[name].extra]


def test_a_cell_of_other_settings_is_another_cell(tmp_path: Path) -> None:
    plan = Plan(tmp_path, tmp_path)
    hashes = {
        plan.hash(Cell(name, case, seed)) for name in METHODS for case in ("planted", "nothing") for seed in (0, 1)
    }
    assert len(hashes) == len(METHODS) * 4
    slower = Plan(tmp_path, tmp_path, protocol=Protocol(lr=1e-3))
    tuned = Cell("paper", "planted", 0)
    assert slower.hash(tuned) != plan.hash(tuned)
    assert plan.settings(tuned)["needs"] == plan.hash(Cell("tune_paper", "planted", 1000))
