"""What the audit's commands share: the exit code of an audit's state, and signals joined by +."""

from __future__ import annotations

from collections import Counter

import pytest
import typer

from memsieve.cli.audit.common import DAMAGED, leave, signal_names
from memsieve.cli.common import USELESS
from memsieve.filtering.audit.status import Status, TaskState
from memsieve.filtering.audit.tasks import Task


def status(*, done: int = 2, truncated: int = 0, rows: int = 6, failed: int = 0) -> Status:
    """Of an audit of two shards."""
    states = [TaskState(Task(i, f"{i}.tar"), "done" if i < done else "missing") for i in range(2)]
    return Status(states, Counter(done=done, missing=2 - done, truncated=truncated), rows=rows, failed=failed)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (status(done=1), 1),
        (status(truncated=1), DAMAGED),
        (status(failed=6), USELESS),
        (status(rows=0), USELESS),
        (status(done=1, truncated=1, failed=6), 1),
        (status(truncated=1, failed=6), USELESS),
    ],
)
def test_what_is_missing_counts_before_what_is_useless_and_that_before_damage(found: Status, code: int) -> None:
    with pytest.raises(typer.Exit) as ended:
        leave(found)
    assert ended.value.exit_code == code


def test_a_whole_audit_goes_on_even_with_some_bad_samples() -> None:
    leave(status(failed=5))


def test_signals_are_joined_by_plus() -> None:
    assert signal_names("loss_gap + loss+magnitude") == ("loss_gap", "loss", "magnitude")
    assert signal_names(None) == () == signal_names(""), "the command's own choice"
