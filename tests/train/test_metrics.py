"""What is said of a window and how often, and which numbers there are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from memsieve.filtering.evidence.sharing import Standing
from memsieve.filtering.types import Action, Reason, Verdict, Visit
from memsieve.train.config import RunConfig
from memsieve.train.metrics import _by_bin, log_suspects, log_sweep, log_window
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from memsieve.train.step import WindowResult

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def session(make_shared_config: MakeConfig) -> Session:
    """Of nine steps, logged each fourth; nothing is trained."""
    return set_up(make_shared_config("metrics", train={"steps": 9}, tracking={"log_every": 4, "histogram_every": 2}))


@pytest.fixture(autouse=True)
def nothing_logged(session: Session) -> None:
    session.tracker.path.unlink(missing_ok=True)
    session.step, session.updates, session.skipped, session.times = 0, 0, 0, [1.0]


def rows(session: Session) -> list[dict[str, Any]]:
    path = session.tracker.path
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def verdict(timestep: int = 10, **signals: float) -> Verdict:
    return Verdict(Visit("k"), 1.0, Action.KEEP, Reason.CLEAN, timestep, signals)


def result(*verdicts: Verdict, eligible: int = 8, kept: float = 6.0, loss: float = 0.5) -> WindowResult:
    return WindowResult(loss, 0.75, eligible, kept, 2.0, False, list(verdicts))


def test_the_first_window_the_last_and_each_so_many_are_logged(session: Session) -> None:
    for step in range(1, 10):
        session.step = step
        log_window(session, result())
    assert [row["step"] for row in rows(session)] == [1, 4, 8, 9]


def test_a_window_is_told_in_numbers(session: Session) -> None:
    session.step, session.updates, session.skipped = 4, 3, 1
    session.times = [100.0, 1.0, 2.0, 3.0, 50.0]  # the first is of the line before
    log_window(session, result(*(verdict(magnitude=float(m)) for m in range(101)), verdict(loss=0.1)))
    (row,) = rows(session)
    assert {name: row[name] for name in row if name.startswith("train/")} == {
        "train/loss": 0.5, "train/loss_unfiltered": 0.75, "train/lr": 1e-3, "train/grad_norm": 2.0,
        "train/updates": 3.0, "train/step_seconds": 2.5,
    }  # fmt: skip
    assert (row["mem/kept_count"], row["mem/dropped_frac"], row["mem/weight_mean"]) == (6.0, 0.25, 0.75)
    found = [row[f"mem/magnitude_{name}"] for name in ("mean", "max", "p50", "p95", "p99")]
    assert found == pytest.approx([50.0, 100.0, 50.0, 95.0, 99.0])
    assert row["mem/skipped_steps"] == 1.0 and row["mem/condemned_groups"] == row["mem/groups_seen"] == 0.0
    assert "mem/threshold" not in row, "there is no bar before the first comparison"
    (decides,) = session.filter.config.signals if session.filter else ()
    log_window(session, result(*(verdict(magnitude=1.0, **{decides: float(v)}) for v in range(101))))
    found = [rows(session)[-1][f"mem/{decides}_{name}"] for name in ("mean", "max", "p50", "p95", "p99")]
    assert found == pytest.approx([50.0, 100.0, 50.0, 95.0, 99.0])


def test_what_is_no_number_is_left_out(session: Session) -> None:
    session.step = 1
    log_window(session, result(verdict(loss=0.1), eligible=0, kept=0.0, loss=float("nan")))
    (row,) = rows(session)
    assert "train/loss" not in row and "mem/magnitude_mean" not in row and row["mem/dropped_frac"] == 1.0
    log_sweep(session)
    assert len(rows(session)) == 1, "no sweep is complete"


def test_without_the_filter_only_training_is_told(make_config: MakeConfig) -> None:
    plain = set_up(make_config(filter={"enabled": False}))
    plain.step, plain.times = 1, [1.0]
    log_window(plain, result())
    (row,) = rows(plain)
    assert {name for name in row if name.startswith("mem/")} == {"mem/skipped_steps"} and "train/loss" in row


def test_magnitudes_go_into_tenths_of_the_schedule_and_empty_ones_are_left_out(session: Session) -> None:
    found = _by_bin(session, np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([0, 99, 100, 999, 1000]))
    assert {name: values.tolist() for name, values in found.items()} == {
        "t_0000_0100": [1.0, 2.0], "t_0100_0200": [3.0], "t_0900_1000": [4.0, 5.0],
    }  # fmt: skip


def test_captions_are_in_the_table_where_that_was_asked_for(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[list[str], list[list[Any]]]] = []
    monkeypatch.setattr(session.tracker, "table", lambda name, columns, rows, step: told.append((columns, rows)))
    suspects = [Standing("a", 3.0, 4.0, 0.01, 1.5, 7, 6, -1), Standing("b", 1.0, 2.0, 0.5, 1.0, 3, 3, -1)]
    for log_samples in (False, True):
        monkeypatch.setattr(session.config.tracking, "log_samples", log_samples)
        log_suspects(session, suspects, {"a": ["key", "s.tar", "a caption"]})
    (columns, plain), (more, whole) = told
    assert plain == [["a", 7, 4.0, 0.01, -1, 1.5], ["b", 3, 2.0, 0.5, -1, 1.0]] and len(columns) == 6
    assert more == [*columns, "key", "caption"]
    assert whole == [[*plain[0], "key", "a caption"], [*plain[1], "", ""]], "of one no sample is known"
