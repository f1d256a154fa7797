"""What version 0.1 could set and is gone: refused by name, and not forgotten where it decides otherwise."""

from __future__ import annotations

import pytest

from memsieve.filtering.config import BANK_SIZE, FilterConfig
from memsieve.filtering.data.loader_sieve import DELAY
from memsieve.filtering.evidence.calibration import T_BINS
from memsieve.filtering.evidence.held_out import HORIZON
from memsieve.filtering.evidence.table import HALF_LIFE, MIN_SWEEPS
from memsieve.filtering.gone import GONE, changed_since, first_gone, in_todays_words, rule_of_0_1
from memsieve.filtering.schedule import SCORE_AFTER
from memsieve.filtering.settings import SettingsError, parse_settings
from memsieve.train.held_out import DRAWS


@pytest.mark.parametrize("name", GONE)
def test_a_setting_that_is_gone_is_refused_with_the_reason_and_the_way_out(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings(FilterConfig, {name: 1})
    said = str(refused.value)
    assert f"filter.{name} is gone: {GONE[name].why}" in said and "memsieve config upgrade FILE" in said
    assert name not in FilterConfig.model_fields


def test_what_a_run_of_0_1_left_alone_holds_now() -> None:
    defaults = {
        "calibrator": "conformal", "decide": "group", "normalize": "eligible", "t_bins": 10, "bank_size": 2048,
        "horizon": 64, "softness": 1.0, "half_life": 8.0, "min_sweeps": 3, "held_out_draws": 16, "score_after": 2,
        "delay": 4, "retest_every": 16, "pardon_looks": 0, "pardon_p": 0.5,
    }  # fmt: skip
    assert defaults.keys() == GONE.keys() and changed_since(defaults) == []
    assert changed_since({**defaults, "horizon": 32, "pardon_looks": 3}) == ["horizon", "pardon_looks"]
    held = (HALF_LIFE, MIN_SWEEPS, DRAWS, SCORE_AFTER, DELAY, T_BINS, BANK_SIZE, HORIZON)
    names = ("half_life", "min_sweeps", "held_out_draws", "score_after", "delay", "t_bins", "bank_size", "horizon")
    assert held == tuple(GONE[name].value for name in names), "the sentences tell the truth"


@pytest.mark.parametrize(
    ("before", "rule", "changed"),
    [
        ({"calibrator": "conformal"}, "evidence", []),
        ({"decide": "visit"}, "rank", []),
        ({"calibrator": "fixed", "decide": "visit"}, "threshold", ["normalize"]),
        ({"calibrator": "fixed", "decide": "visit", "normalize": "kept"}, "threshold", []),
        ({"calibrator": "robust", "decide": "visit"}, "z_score", []),
        ({"normalize": "kept"}, "evidence", ["normalize"]),
        ({"calibrator": "robust"}, None, []),
        ({"signals": ["loss"]}, None, []),
        ({"rule": "threshold"}, None, []),
    ],
)
def test_what_three_settings_said_one_rule_says(before: dict[str, str], rule: str | None, changed: list[str]) -> None:
    assert rule_of_0_1(before) == rule and changed_since(before) == changed
    today = in_todays_words({"threshold": 2.0, **before})
    assert today.get("rule") == (rule or before.get("rule"))
    assert today["threshold"] == (None if rule in ("evidence", "rank") else 2.0)  # 0.1 let it stand
    assert first_gone(today) is None
    said = first_gone(before) or ""
    assert (f"Set filter.rule: {rule} in its place" in said) == (rule is not None and "normalize" not in said)


def test_the_way_out_fits_the_section() -> None:
    """Of a file, of a file with a rule and an override of 0.1 over it, and of what 0.1 refused."""
    assert "Set filter.rule: rank in its place;" in (first_gone({"decide": "visit"}) or "")
    assert "Leave it out: the rule is z_score;" in (first_gone({"rule": "z_score", "decide": "visit"}) or "")
    assert "z_score or rank. Set that in its place;" in (first_gone({"calibrator": "fixed"}) or "")
