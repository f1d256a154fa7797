"""One number per pair out of its draws, and audits that cannot be put side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memsieve.filtering.audit.table import Scores, default_signals, distinct_rows, load_scores, pair_scores
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.written import DECIDING, MODEL, row, write_audit


def audit(root: Path, *rows: dict[str, Any], **deciding: Any) -> Scores:
    return load_scores(write_audit(root, list(rows), DECIDING | deciding))


def test_a_score_is_the_mean_over_the_draws_that_say_something(tmp_path: Path) -> None:
    scores = audit(tmp_path, row("a", [1.0, 3.0]), row("b", [5.0, None]), row("c", [None, None]), row("d"))
    found, null = pair_scores(scores, ("magnitude",))
    assert null is None and np.array_equal(found, [2.0, 5.0, np.nan, np.nan], equal_nan=True)
    losses, _ = pair_scores(scores, ("loss",))
    assert np.array_equal(losses, -found, equal_nan=True), "a low loss is evidence"


def test_a_reference_is_found_by_image_and_caption(tmp_path: Path) -> None:
    ours = audit(tmp_path / "ours", row("a", [1.0, 1.0]), row("b", [2.0, 2.0]), row("a", [1.0, 1.0], caption_hash="x"))
    base = audit(tmp_path / "base", row("b", [2.0, 4.0]), row("a", [4.0, 2.0]), model=MODEL | {"hash": "base"})
    found, _ = pair_scores(ours, ("reference_ratio",), reference=base)
    assert np.allclose(found, [1 - (0.25 + 0.5) / 2, 1 - (1.0 + 0.5) / 2, np.nan], equal_nan=True)
    other = audit(tmp_path / "other", row("a", [4.0, 2.0], timesteps=[11, 60]))
    with pytest.raises(SettingsError, match="drew other timesteps for the same pair"):
        pair_scores(ours, ("reference_ratio",), reference=other)


@pytest.mark.parametrize(
    ("deciding", "what"),
    [
        ({"seed": 4}, "seed"),
        ({"data": {"resolution": 32}}, "resolution"),
        ({"model": MODEL | {"latent_shape": [4, 4, 4]}}, "latent_shape"),
        ({"model": MODEL | {"hash": "another"}}, "the model"),
    ],
)
def test_audits_that_differ_are_not_compared(tmp_path: Path, deciding: dict[str, Any], what: str) -> None:
    scores = audit(tmp_path / "a", row("a", [1.0, 1.0]))
    with pytest.raises(SettingsError, match=f"--held-out: its audit and this one differ in {what}"):
        pair_scores(scores, ("magnitude",), null=audit(tmp_path / "b", row("b", [1.0, 1.0]), **deciding))


def test_signals_that_cannot_be_used(tmp_path: Path) -> None:
    scores = audit(tmp_path, row("a", [1.0, 1.0]))
    with pytest.raises(SettingsError, match="--score = 'gradient' is not known"):
        pair_scores(scores, ("gradient",))
    with pytest.raises(SettingsError, match="name the base model's audit with --reference"):
        pair_scores(scores, ("reference_ratio",))
    scores.about["deciding"]["model"] = MODEL | {"distilled": "it has no unconditional prediction"}
    with pytest.raises(SettingsError, match="magnitude could not be measured with this model"):
        pair_scores(scores, ("magnitude",))
    assert default_signals(scores, None) == ("loss",) and default_signals(scores, scores) == ("reference_ratio",)


def test_several_signals_are_measured_in_spreads_of_their_bin(tmp_path: Path) -> None:
    draws = np.random.default_rng(0).lognormal(size=(200, 2))
    scores = audit(tmp_path, *(row(f"p{i}", [float(a), float(b)]) for i, (a, b) in enumerate(draws)))
    found, _ = pair_scores(scores, ("magnitude", "loss"))
    assert np.allclose(found, 0.0, atol=1e-9), "equal numbers, of which one speaks for and one against"
    twice, _ = pair_scores(scores, ("magnitude", "magnitude"))
    assert abs(float(np.median(twice))) < 0.5 and np.argmax(twice) == np.argmax(np.log(draws).sum(1))


def test_a_pair_counts_once_whatever_its_copies(tmp_path: Path) -> None:
    scores = audit(tmp_path, row("a", [1.0, 1.0]), row("b", [1.0, 1.0]), row("a", [1.0, 1.0]), row("c", sha256=None))
    assert sorted(distinct_rows(scores).tolist()) == [1, 2]
