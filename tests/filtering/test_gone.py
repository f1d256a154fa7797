"""What version 0.1 could set and is gone: refused by name, and not forgotten where it decides otherwise."""

from __future__ import annotations

import pytest

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.filter import MemorizationFilter
from memsieve.filtering.gone import GONE, changed_since
from memsieve.filtering.settings import SettingsError, parse_settings


@pytest.mark.parametrize("name", GONE)
def test_a_setting_that_is_gone_is_refused_with_the_reason_and_the_way_out(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_settings(FilterConfig, {name: 1})
    said = str(refused.value)
    assert f"filter.{name} is gone: {GONE[name].why}" in said and "memsieve config upgrade FILE" in said
    assert name not in FilterConfig.model_fields


def test_what_a_run_of_0_1_left_alone_holds_now() -> None:
    defaults = {"t_bins": 10, "bank_size": 2048, "horizon": 64, "softness": 1.0, "retest_every": 16, "pardon_looks": 0,
                "pardon_p": 0.5}  # fmt: skip
    assert defaults.keys() == GONE.keys() and changed_since(defaults) == []
    assert changed_since({**defaults, "horizon": 32, "pardon_looks": 3}) == ["horizon", "pardon_looks"]


def test_a_filters_checkpoint_of_0_1() -> None:
    sieve = MemorizationFilter(signals=["loss"], record=[])
    state = sieve.state_dict()
    old = {"t_bins": 10, "bank_size": 2048, "horizon": 64, "softness": 1.0, "pardon_looks": 0}
    state["config"] = {**state["config"], **old}
    sieve.load_state_dict(state)
    state["config"]["pardon_looks"] = 2
    with pytest.raises(ValueError, match=r"written by memsieve 0\.1 with filter\.pardon_looks: 2, .* stays condemned"):
        sieve.load_state_dict(state)
