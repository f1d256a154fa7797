"""Settings of the filter: which contradict each other, in which words they are refused, and what follows from them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.settings import SettingsError, parse_settings


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"rule": "threshold"}, r"needs filter\.threshold"),
        ({"threshold": -1.0}, r"'threshold' = -1\.0"),
        ({"rule": "z_score"}, r"needs filter\.threshold \(a z-score"),
        ({"threshold": 2.0}, r"compared by filter\.rule: threshold or z_score, not by evidence"),
        (
            {"rule": "threshold", "threshold": 2.0, "signals": ["loss", "magnitude"]},
            r"set filter\.signals to one",
        ),
        ({"polcy": "drop"}, "did you mean 'policy'"),
        ({"never_drop": ["a"], "always_drop": ["a"]}, "both name 'a'"),
    ],
)
def test_contradictions_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(FilterConfig, raw)


def test_a_bank_that_cannot_express_the_rate_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"at least 9999 measurements .* and 2048 are kept; raise the rate"):
        parse_settings(FilterConfig, {"rule": "rank", "false_drop_rate": 0.0001})
    parse_settings(FilterConfig, {"rule": "rank", "false_drop_rate": 0.0005})


def test_caption_policy_needs_what_is_known_before_the_visit() -> None:
    with pytest.raises(ValueError, match=r"policy: caption .* needs filter\.rule: evidence or recall, not rank"):
        FilterConfig(policy="caption", rule="rank")


def test_what_the_sieve_cannot_do_is_refused() -> None:
    for option, value in {"policy": "reweight", "rule": "rank"}.items():
        with pytest.raises(SettingsError, match=r"filter\.apply: sieve skips condemned groups, which needs"):
            parse_settings(FilterConfig, {"apply": "sieve", option: value})
    assert FilterConfig(apply="sieve").policy == "drop"


def test_the_refusal_of_the_sieve_says_what_is_set() -> None:
    with pytest.raises(SettingsError, match=r"rule: evidence, not drop and rank; set them, or filter\.apply: batch"):
        parse_settings(FilterConfig, {"apply": "sieve", "rule": "rank"})


@pytest.mark.parametrize("reference", ["audits/base", ["audits/base", "audits/more"]])
def test_a_reference_that_is_looked_up_needs_the_sieve(reference: str | list[str]) -> None:
    with pytest.raises(SettingsError, match=r"holds some draws of each pair, and filter\.apply: batch measures every"):
        parse_settings(FilterConfig, {"reference": reference})
    config = FilterConfig(reference=reference, apply="sieve")
    assert config.audits == ([reference] if isinstance(reference, str) else reference)


@pytest.mark.parametrize("reference", ["frozen", ["frozen"]])
def test_a_frozen_copy_is_no_audit(reference: str | list[str]) -> None:
    assert FilterConfig(reference=reference).audits == []


@pytest.mark.parametrize("rule", ["evidence", "rank"])
def test_a_threshold_is_refused_where_nothing_is_compared_with_it(rule: str) -> None:
    with pytest.raises(SettingsError, match=rf"threshold: 0\.0 is compared .* not by {rule}, which has filter"):
        parse_settings(FilterConfig, {"rule": rule, "threshold": 0.0})


def test_one_raw_signal_means_one_that_is_measured() -> None:
    several = "compares one raw signal, not "
    with pytest.raises(SettingsError, match=several + r"\['loss', 'cosine'\]; set"):
        parse_settings(FilterConfig, {"rule": "threshold", "threshold": 2.0, "signals": ["loss", "cosine"]})
    with pytest.raises(SettingsError, match=r"; reference_residual is known only beside held-out pairs; set"):
        parse_settings(FilterConfig, {"rule": "threshold", "threshold": 2.0})
    assert FilterConfig(rule="threshold", threshold=2.0, signals=["loss"]).deciding == ("loss",)
    assert FilterConfig(rule="z_score", threshold=2.0, signals=["loss", "cosine"]).deciding == ("loss", "cosine")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"false_drop_rate": 0.0}, r"'false_drop_rate' = 0\.0: .* greater than 0"),
        ({"false_drop_rate": 1.0}, r"'false_drop_rate' = 1\.0: .* less than 1"),
        ({"max_timestep": 0.0}, r"'max_timestep' = 0\.0"),
        ({"score_budget": 1.5}, r"'score_budget' = 1\.5"),
        ({"held_out_per_window": 0}, r"'held_out_per_window' = 0"),
        ({"spare_above": -0.1}, r"'spare_above' = -0\.1"),
        ({"max_exposures": 0}, r"'max_exposures' = 0"),
        ({"max_drop_fraction": 0.0}, r"'max_drop_fraction' = 0\.0"),
        ({"signals": []}, r"'signals' = \[\]"),
        ({"signals": ["magnitudes"]}, r"'signals\.0' = 'magnitudes'"),
        ({"record": ["reference_residual"]}, r"'record\.0' = 'reference_residual'"),
        ({"rule": "paper"}, r"'rule' = 'paper': .*'evidence', 'recall', 'threshold', 'z_score' or 'rank'"),
    ],
)  # fmt: skip
def test_a_value_out_of_its_range_is_refused_by_name(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(FilterConfig, raw)


def test_the_paper_tests_at_all_timesteps_the_other_rules_below_three_quarters_and_a_setting_overrules() -> None:
    paper: dict[str, Any] = {"rule": "threshold", "threshold": 2.0, "signals": ["magnitude"]}
    assert FilterConfig(**paper).measured_share == 1.0
    for rule, threshold in {"evidence": None, "rank": None, "z_score": 4.0}.items():
        assert FilterConfig(rule=rule, threshold=threshold).measured_share == 0.75
    assert FilterConfig(**paper, max_timestep=0.5).measured_share == 0.5
    assert FilterConfig(max_timestep=1.0).measured_share == 1.0


def test_nobody_is_spared_where_every_look_counts() -> None:
    assert FilterConfig().spared_below == -0.5 and FilterConfig(spare_above=0.0).spared_below == 0.0
    assert FilterConfig(spare_above=None).spared_below == -math.inf


def test_what_decides_is_measured_first_and_everything_once() -> None:
    assert FilterConfig().deciding == ("loss", "reference_ratio")
    assert FilterConfig(record=["cosine", "loss", "cosine"]).measured == ("loss", "reference_ratio", "cosine")


def test_a_setting_is_checked_with_the_others_when_it_is_changed_too() -> None:
    config = FilterConfig(apply="sieve")
    with pytest.raises(ValueError, match=r"filter\.apply: sieve skips condemned groups"):
        config.policy = "observe"


@pytest.mark.parametrize("where", ["signals", "record"])
@pytest.mark.parametrize("name", ["drift", "anchored_magnitude"])
def test_predictions_of_the_base_cannot_be_looked_up(where: str, name: str) -> None:
    settings = {"reference": "audits/base", "apply": "sieve", where: [name]}
    with pytest.raises(
        SettingsError, match=rf"{name} compares the predictions themselves .* filter\.reference: frozen"
    ):
        parse_settings(FilterConfig, settings)
    assert name in FilterConfig(**settings | {"reference": "frozen"}).measured
