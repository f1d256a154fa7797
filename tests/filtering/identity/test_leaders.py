"""Groups about leaders: against a plain loop, no chains, whatever the blocks and the index."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from memsieve.filtering.identity import leaders
from memsieve.filtering.identity.descriptors import Kind
from memsieve.filtering.identity.leaders import Leaders, alike, joined_to_leaders

pytestmark = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is not installed")


def rows_of(kind: Kind, count: int, seed: int = 0) -> np.ndarray:
    """Rows about a few centres, some near each other."""
    rng = np.random.default_rng(seed)
    if kind == "bits":
        centres = rng.integers(0, 2, (40, 64))
        flips = rng.random((count, 64)) < 0.04
        return np.packbits(centres[rng.integers(0, 40, count)] ^ flips, axis=1)
    centres = rng.normal(size=(40, 16))
    rows = centres[rng.integers(0, 40, count)] + 0.25 * rng.normal(size=(count, 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def plainly(rows: np.ndarray, threshold: float) -> list[int]:
    likeness, found, known = alike(rows, rows), [], []  # type: Any, list[int], list[int]
    for i in range(len(rows)):
        best = max(known, key=lambda j: (likeness[i, j], -j), default=None)
        if best is None or likeness[i, best] < threshold:
            known.append(i)
            best = i
        found.append(best)
    return found


@pytest.mark.parametrize(("kind", "threshold"), [("floats", 0.9), ("floats", 0.6), ("bits", -6.0), ("bits", -1.0)])
@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_as_a_plain_loop_would_whatever_the_blocks(
    kind: Kind, threshold: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(kind, 300)
    monkeypatch.setattr(leaders, "BLOCK", block)
    joined = joined_to_leaders([rows[:100], rows[100:103], rows[103:]], Leaders(kind, threshold))
    expected = plainly(rows, threshold)
    likeness = alike(rows, rows)
    # Equal likeness, or equal to the last bit, may go to either leader; who leads may not.
    assert [i == leader for i, leader in enumerate(joined.leaders)] == [
        i == leader for i, leader in enumerate(expected)
    ]
    assert joined.likeness == pytest.approx([likeness[i, j] for i, j in enumerate(expected)], abs=1e-3)
    assert len(set(expected)) < 300


def test_likeness_does_not_chain() -> None:
    """Each a little farther along: neighbours are alike, the ends are not."""
    angles = np.linspace(0, np.pi / 2, 40)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16)
    joined = joined_to_leaders([rows], Leaders("floats", 0.98))
    assert 3 < len(set(joined.leaders.tolist())) < 12
    for row, leader in zip(rows, joined.leaders, strict=True):
        assert alike(row[None], rows[leader][None])[0, 0] >= 0.97


def test_rows_that_come_later_leave_the_earlier_ones_as_they_were() -> None:
    rows = rows_of("floats", 200)
    first, all_of_them = (joined_to_leaders([part], Leaders("floats", 0.85)) for part in (rows[:120], rows))
    assert np.array_equal(first.leaders, all_of_them.leaders[:120])


@pytest.mark.parametrize("kind", ["floats", "bits"])
def test_inverted_lists_find_nearly_all_that_a_flat_index_finds(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    if kind == "bits":
        base = rng.integers(0, 256, (3000, 16), dtype=np.uint8)
        near = base.copy()
        near[:, 0] ^= 1
    else:
        base = rng.normal(size=(3000, 32)).astype(np.float32)
        near = base + 0.1 * rng.normal(size=base.shape).astype(np.float32)
        base, near = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (base, near))
        base, near = base.astype(np.float16), near.astype(np.float16)
    monkeypatch.setattr(leaders, "FLAT_MOST", 500)
    found = joined_to_leaders([base, near], Leaders(kind, -2.0 if kind == "bits" else 0.95))
    again = found.leaders[3000:] == found.leaders[:3000]
    assert again.mean() > 0.97
    index: Any = Leaders(kind, 0.9)
    index.join(base, 0)
    assert type(index._index).__name__ in ("IndexBinaryIVF", "IndexIVFScalarQuantizer")


def test_nothing_is_nothing() -> None:
    assert len(joined_to_leaders([], Leaders("bits", -3.0)).leaders) == 0


def test_likeness_by_hand() -> None:
    bits = np.array([[0b1010], [0b1000]], dtype=np.uint8)
    assert alike(bits, bits).tolist() == [[0.0, -1.0], [-1.0, 0.0]]
    floats = np.array([[1.0, 0.0], [0.6, 0.8]], dtype=np.float16)
    assert alike(floats, floats) == pytest.approx(np.array([[1.0, 0.6], [0.6, 1.0]]), abs=1e-3)
