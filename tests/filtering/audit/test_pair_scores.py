"""One number per pair out of its draws, and audits that cannot be put side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memsieve.filtering.audit import pair_scores
from memsieve.filtering.audit.pair_scores import default_signals, drawn_sample, score_pairs
from memsieve.filtering.audit.query import AuditQuery
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.asked import added, scores_of
from tests.filtering.audit.written import MODEL, row


@pytest.fixture
def query() -> Iterator[AuditQuery]:
    with AuditQuery() as opened:
        yield opened


def test_a_score_is_the_mean_over_the_draws_that_say_something(query: AuditQuery, tmp_path: Path) -> None:
    rows = added(query, "a", tmp_path, row("a", [1.0, 3.0]), row("b", [5.0, None]), row("c", [None, None]), row("d"))
    found = scores_of(query, rows, ("magnitude",))
    assert np.array_equal(found, [2.0, 5.0, np.nan, np.nan], equal_nan=True)
    losses = scores_of(query, rows, ("loss",))
    assert np.array_equal(losses, -found, equal_nan=True), "a low loss is evidence"


def test_a_reference_is_found_by_image_and_caption(query: AuditQuery, tmp_path: Path) -> None:
    ours = [row("a", [1.0, 1.0]), row("b", [2.0, 2.0]), row("a", [1.0, 1.0], caption_hash="x")]
    rows = added(query, "ours", tmp_path / "ours", *ours)
    base = [row("b", [2.0, 4.0]), row("a", [4.0, 2.0]), row("a", [9.0, 9.0])]  # the first of two rows counts
    reference = added(query, "base", tmp_path / "base", *base, model=MODEL | {"hash": "base"})
    found = scores_of(query, rows, ("reference_ratio",), reference=reference)
    assert np.allclose(found, [1 - (0.25 + 0.5) / 2, 1 - (1.0 + 0.5) / 2, np.nan], equal_nan=True)
    other = added(query, "other", tmp_path / "other", row("a", [4.0, 2.0], timesteps=[11, 60]))
    with pytest.raises(SettingsError, match="drew other timesteps for the same pair"):
        scores_of(query, rows, ("reference_ratio",), reference=other)


def test_a_reference_of_fewer_draws_is_compared_as_far_as_it_goes(query: AuditQuery, tmp_path: Path) -> None:
    rows = added(query, "ours", tmp_path / "ours", row("a", [1.0, 1.0]))
    one = row("a", [4.0, 0.0]) | {"timesteps": [10], "loss": [4.0], "magnitude": [4.0], "loss_gap": [0.0]}
    reference = added(query, "base", tmp_path / "base", one, draws=1)
    assert scores_of(query, rows, ("reference_ratio",), reference=reference) == pytest.approx([0.75])


@pytest.mark.parametrize(
    ("deciding", "what"),
    [
        ({"seed": 4}, "seed"),
        ({"data": {"resolution": 32}}, "resolution"),
        ({"model": MODEL | {"latent_shape": [4, 4, 4]}}, "latent_shape"),
        ({"model": MODEL | {"hash": "another"}}, "the model"),
    ],
)
def test_audits_that_differ_are_not_compared(
    query: AuditQuery, tmp_path: Path, deciding: dict[str, Any], what: str
) -> None:
    rows = added(query, "a", tmp_path / "a", row("a", [1.0, 1.0]))
    null = added(query, "b", tmp_path / "b", row("b", [1.0, 1.0]), **deciding)
    with pytest.raises(SettingsError, match=f"--held-out: its audit and this one differ in {what}"):
        score_pairs(query, rows, ("magnitude",), null=null)


def test_signals_that_cannot_be_used(query: AuditQuery, tmp_path: Path) -> None:
    rows = added(query, "a", tmp_path, row("a", [1.0, 1.0]))
    with pytest.raises(SettingsError, match="--score = 'gradient' is not known"):
        score_pairs(query, rows, ("gradient",))
    with pytest.raises(SettingsError, match="name the base model's audit with --reference"):
        score_pairs(query, rows, ("reference_ratio",))
    rows.about["deciding"]["model"] = MODEL | {"distilled": "it has no unconditional prediction"}
    with pytest.raises(SettingsError, match="magnitude could not be measured with this model"):
        score_pairs(query, rows, ("magnitude",))
    assert default_signals(rows, None) == ("loss",) and default_signals(rows, rows) == ("reference_ratio",)


def test_several_signals_are_measured_in_spreads_of_their_bin(query: AuditQuery, tmp_path: Path) -> None:
    draws = np.random.default_rng(0).lognormal(size=(200, 2))
    rows = added(query, "a", tmp_path, *(row(f"p{i}", [float(a), float(b)]) for i, (a, b) in enumerate(draws)))
    found = scores_of(query, rows, ("magnitude", "loss"))
    assert np.allclose(found, 0.0, atol=1e-9), "equal numbers, of which one speaks for and one against"
    twice = scores_of(query, rows, ("magnitude", "magnitude"))
    assert abs(float(np.median(twice))) < 0.5 and np.argmax(twice) == np.argmax(np.log(draws).sum(1))


def test_held_out_pairs_fill_the_bins_and_get_scores_of_their_own(query: AuditQuery, tmp_path: Path) -> None:
    draws = np.random.default_rng(0).lognormal(size=(100, 2))
    null = added(query, "b", tmp_path / "b", *(row(f"h{i}", [float(a), float(b)]) for i, (a, b) in enumerate(draws)))
    rows = added(query, "a", tmp_path / "a", row("p", [50.0, 50.0]))
    found = scores_of(query, rows, ("magnitude", "magnitude"), null=null)
    assert found[0] > 6.0, "far beyond what held-out pairs do"
    assert query.number("SELECT count(*) FROM b_scores WHERE score IS NOT NULL") == 100


def test_a_pair_counts_once_whatever_its_copies(query: AuditQuery, tmp_path: Path) -> None:
    pairs = [row("a", [1.0, 1.0]), row("b", [2.0, 2.0]), row("a", [1.0, 1.0]), row("c", sha256=None)]
    found = drawn_sample(query, added(query, "a", tmp_path, *pairs))
    assert sorted(found.rows.tolist()) == [0, 1]
    assert sorted(found.values["loss"][:, 0].tolist()) == [1.0, 2.0]


def test_of_many_pairs_a_sample_by_chance_is_taken_the_same_each_time(
    query: AuditQuery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_scores, "SAMPLE", 20)
    rows = added(query, "a", tmp_path, *(row(f"p{i}", [float(i), float(i)]) for i in range(100)))
    first, second = (drawn_sample(query, rows) for _ in range(2))
    assert len(first.rows) == 20 and sorted(first.rows) == sorted(second.rows) != list(range(20))
