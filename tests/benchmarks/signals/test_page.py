"""What the page says of signals that could decide in the default's place."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.signals.page import DEFAULT, _instead
from benchmarks.signals.run import AGAINST_THE_BASE, PARTS, SETS


def label_of(names: tuple[str, ...], limit: float) -> str:
    return " + ".join(names) + ("" if limit == 1.0 else f", t < {limit * 1000:.0f}")


def table(**better: float) -> dict[str, Any]:
    """Every set as good as the default on three seeds, but those that are named."""
    labels = [label_of(*some) for some in SETS]
    by_seed = {label: [[0.8, 0.7, 0.9]] * 3 for label in labels}
    for label, value in better.items():
        by_seed[label] = [[0.8, 0.7, 0.9], [value, 0.7, 0.95], [value, 0.7, 0.95]]
    return {"auc": dict.fromkeys(labels), "by_seed": by_seed}


def instead(found: dict[str, Any]) -> list[str]:
    rows = [line.strip("| ").split(" | ") for line in _instead(found) if line.startswith("| ")]
    return [row[0] for row in rows if row[-1] == "yes"]


def test_better_on_two_seeds_in_both_domains_at_no_more_passes() -> None:
    drift, dear = "drift, t < 750", "anchored_magnitude + drift"
    assert instead({"same": table(), "shifted": table()}) == []
    assert instead({"same": table(**{drift: 0.9}), "shifted": table(**{drift: 0.9})}) == [drift]
    assert instead({"same": table(**{drift: 0.9}), "shifted": table()}) == [], "in one domain only"
    costly = "reference_residual + anchored_magnitude"
    assert dear not in table()["auc"]
    assert instead({"same": table(**{costly: 0.9}), "shifted": table(**{costly: 0.9})}) == [], "a pass more"


def test_two_seeds_or_one_domain_decide_nothing() -> None:
    found = table()
    found["by_seed"] = {label: each[:2] for label, each in found["by_seed"].items()}
    assert _instead({"same": found, "shifted": found}) == [] == _instead({"same": table()})


@pytest.mark.parametrize("names", AGAINST_THE_BASE)
def test_what_compares_with_the_base_is_measured_at_all_t_and_where_it_counts(names: tuple[str, ...]) -> None:
    assert (names, 1.0) in SETS and (names, 0.75) in SETS


def test_each_domain_comes_with_captions_dropped_and_with_all_of_them() -> None:
    assert {(domain, dropout) for domain, dropout in PARTS.values()} == {
        (domain, dropout) for domain in ("same", "shifted") for dropout in (0.1, 0.0)
    }
    assert DEFAULT in table()["auc"]
