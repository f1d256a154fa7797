"""Every sample read is accounted for once, over resumes and ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from memsieve.train.accounting import Accounting
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up


def some() -> Accounting:
    accounting = Accounting()
    accounting.read, accounting.trained, accounting.held_out = 20, 9, 2
    accounting.dropped, accounting.failed = Counter(condemned=3), Counter(broken=1)
    accounting.not_kept = Counter({"a duplicate": 4})
    return accounting


def test_what_is_read_and_not_accounted_for_is_the_remainder() -> None:
    assert some().balance == 1 == some().as_dict()["remainder"]


def test_a_resume_goes_on_from_the_numbers_of_a_checkpoint() -> None:
    again = Accounting()
    again.load(some().as_dict())
    assert again.as_dict() == some().as_dict()
    again.load({name: value for name, value in some().as_dict().items() if name != "not_kept"})
    assert not again.not_kept, "older checkpoints do not know of keep-lists"


def test_ranks_are_added_reason_by_reason() -> None:
    mine, theirs = some(), some().as_dict()
    theirs["dropped"] = {"condemned": 1, "always": 2}
    mine.add(theirs)
    assert (mine.read, mine.trained, mine.held_out) == (40, 18, 4)
    assert mine.dropped == {"condemned": 4, "always": 2} and mine.failed == {"broken": 2}
    assert mine.not_kept == {"a duplicate": 8}


@pytest.mark.parametrize("apply", ["batch", "sieve"])
def test_repeats_that_are_left_out_are_accounted_for(
    make_config: Callable[..., RunConfig], apply: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 pairs, one of them 17 times: a pass trains each once, and says how many rows it left out."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = make_config(
        filter={"apply": apply, "signals": ["reference_residual"], "false_drop_rate": 0.05},
        train={"steps": None, "epochs": 3}, data={"repeats": "once"},
    )  # fmt: skip
    summary = fit(set_up(config))
    assert summary["not_kept"] == {"repeat": 3 * 16}
    parts = [sum(summary[name].values()) for name in ("dropped", "failed", "not_kept")]
    assert summary["read"] == 3 * 64 == summary["trained"] + sum(parts) + summary["held_out"] + summary["remainder"]
    assert summary["trained"] + parts[0] == 3 * 48
