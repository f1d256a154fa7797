"""Copy rates and their intervals."""

import pytest

from memsieve.inference.copies.judge import CopyVerdict
from memsieve.inference.copies.rate import copy_rate, wilson_interval


def verdict(group: str, is_copy: bool) -> CopyVerdict:
    return CopyVerdict(group, group, "k", 0.1, 0.1, 0.01, True, is_copy)


def test_wilson() -> None:
    low, high = wilson_interval(5, 10)
    assert (round(low, 4), round(high, 4)) == (0.2366, 0.7634)
    assert wilson_interval(0, 0) == (0.0, 1.0) and wilson_interval(0, 10)[0] == 0


def test_cluster_interval_is_wider_than_the_pooled_one() -> None:
    found = [verdict(f"p{prompt}", prompt < 4) for prompt in range(8) for _ in range(25)]
    rate = copy_rate(found)
    assert (rate.copies, rate.generations, rate.prompts, rate.rate) == (100, 200, 8, 0.5)
    assert rate.method == "cluster_bootstrap"
    assert rate.low < rate.pooled_low < 0.5 < rate.pooled_high < rate.high
    assert rate == copy_rate(found)


@pytest.mark.parametrize("copied", [False, True])
def test_all_or_none_falls_back_to_wilson_on_prompts(copied: bool) -> None:
    rate = copy_rate([verdict(f"p{prompt}", copied) for prompt in range(6) for _ in range(50)])
    assert rate.method == "wilson_prompts" and rate.high - rate.low > 0.3
    assert (rate.low, rate.high) == wilson_interval(6 * copied, 6)


def test_a_single_prompt_tells_little() -> None:
    rate = copy_rate([verdict("p", number % 2 == 0) for number in range(10)])
    assert rate.method == "wilson_prompts" and rate.high - rate.low > 0.8
    with pytest.raises(ValueError, match="at least one"):
        copy_rate([])
