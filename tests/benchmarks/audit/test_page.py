"""The page of audits: what misses its aim, differs or costs more is said to."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from inspect import signature
from typing import Any

import pytest

from benchmarks.audit.page import _more, _removal, _told_of_the_aim
from benchmarks.common import NUMBERS
from memsieve.cli.audit.select import select


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return dict(json.loads((NUMBERS / "audit.json").read_text()))


@pytest.mark.parametrize(("share", "said"), [(0.91, "91 %: reached"), (0.89, "89 %: **not reached**")])
def test_the_aim_is_held_against_the_audit_as_shipped(share: float, said: str) -> None:
    """Which is two batches ahead; without that a share is no matter of the aim."""
    rows = {
        f"PNG, prefetch {ahead}": {"forwards_over_this": {"clock": clock}} for ahead, clock in ((0, 0.5), (2, share))
    }
    rows["forwards"] = {"forwards_over_this": {"clock": 1.0}}
    assert _told_of_the_aim(rows) == f"PNG, {said}"


def test_many_shards_that_cost_more_or_less_are_said_to() -> None:
    part = {
        "rows": {parts: {"1_over_this": {"median": share}} for parts, share in (("1", 1.0), ("10", 0.8), ("76", 1.25))}
    }
    assert (_more(part, max), _more(part, min)) == ("25", "-20")


def test_weights_that_differ_are_not_called_equal(published: dict[str, Any]) -> None:
    found = deepcopy(published)
    found["keep_list"] |= {"same_weights": True, "trained": {"keep_list": 640, "applied": 640}}
    assert "(640 samples trained in both runs) the weights of the two runs are equal" in "\n".join(_removal(found))
    found["keep_list"] |= {"same_weights": False, "trained": {"keep_list": 640, "applied": 624}}
    told = "\n".join(_removal(found))
    assert "(640 and 624 samples trained) the weights of the two runs are NOT equal" in told and "both runs" not in told


def test_every_kind_of_pair_has_its_row_of_copies(published: dict[str, Any]) -> None:
    rows = [line.split(" | ") for line in _removal(published) if re.match(r"\| (not planted|[\d,]+ repeats) \|", line)]
    part = published["removal"]
    for row, (repeats, taken) in zip(rows, part["taken"].items(), strict=False):
        assert row[1] == f"{taken['taken']} of {taken['pairs']:,}"
        assert row[4].startswith(f"{part['copy_rate']['cleaned'][repeats]['rate']:.2f} ("), "after, in the last column"


def test_the_rules_on_the_page_are_options_of_the_command(published: dict[str, Any]) -> None:
    options = {"--" + name.replace("_", "-") for name in signature(select).parameters}
    for rule in published["rules"]:
        assert set(re.findall(r"--[\w-]+", rule)) <= options, rule
