"""From scores to keep-lists, clean shards, and training from either."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.select import Rule, Selection, select_rows
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.keep_lists import rescore
from tests.filtering.audit.written import row, write_audit

Audit = Callable[..., Outcome]
Select = Callable[..., Selection]


@pytest.fixture
def select() -> Iterator[Select]:
    """``select_rows``, closed at the end of the test."""
    with ExitStack() as opened:
        yield lambda *given, **more: opened.enter_context(select_rows(*given, **more))


def test_drop_fraction_takes_out_the_highest_pairs_with_all_their_copies(
    audit: Audit, select: Select, mixed: Path, tmp_path: Path
) -> None:
    audit(mixed, tmp_path / "run", draws=2)

    def planted(row: dict[str, Any], i: int) -> dict[str, Any]:
        number = int(row["caption"].removeprefix("pair "))
        return row | {"magnitude": [100.0 - number, 100.0 - number]}

    rescore(tmp_path / "run", planted)
    selection = select(tmp_path / "run", Rule(drop_fraction=2 / 24))
    away = selection.table.filter(pa.compute.equal(selection.table["reason"], "score"))
    assert len(away) == 9 + 1 and set(away["score"].to_pylist()) == {100.0, 99.0}
    assert selection.counts["no_caption"] == 1 and selection.counts["kept"] == 22
    assert selection.cutoff == 98.0
    assert "magnitude 100 is above 98" in away["detail"].to_pylist()
    by_score = select(tmp_path / "run", Rule(max_score=98.5))
    assert by_score.table["keep"].equals(selection.table["keep"])


def test_dedup_keeps_the_first_of_each_image(audit: Audit, select: Select, mixed: Path, tmp_path: Path) -> None:
    audit(mixed, tmp_path / "run", model=False)
    selection = select(tmp_path / "run", Rule(dedup="sha256"))
    assert selection.counts == {"kept": 24, "duplicate": 8, "no_caption": 1}
    kept = selection.table.filter(selection.table["keep"])
    assert len(set(kept["sha256"].to_pylist())) == 24
    with pytest.raises(SettingsError, match="--data-only"):
        select(tmp_path / "run", Rule(drop_fraction=0.1))


def test_reference_ratio_and_held_out_rate(
    audit: Audit, select: Select, make_shards: Callable[..., Path], tmp_path: Path
) -> None:
    """Pairs whose loss fell to a tenth of the base model's are found among ordinary ones, held-out pairs calibrate."""
    make_shards(tmp_path / "train", 16, per_shard=20)
    make_shards(tmp_path / "held", 19, per_shard=20, first=500)
    for name, data in (("run", "train"), ("held-run", "held")):
        audit(tmp_path / data, tmp_path / name, draws=2, batch_size=20)
    audit(f"{tmp_path}/train::{tmp_path}/held", tmp_path / "base", draws=3, batch_size=20)

    def memorised(row: dict[str, Any], i: int) -> dict[str, Any]:
        if int(row["caption"].removeprefix("pair ")) < 3:
            row["loss"] = [value / 10 for value in row["loss"]]
        return row

    rescore(tmp_path / "run", memorised)
    reference = {"reference": tmp_path / "base", "held_out": tmp_path / "held-run"}
    rule = Rule(signals=("reference_ratio",), false_drop_rate=0.05)
    selection = select(tmp_path / "run", rule, **reference)
    away = selection.table.filter(pa.compute.equal(selection.table["reason"], "score"))
    assert len(away) == 3 and np.allclose(away["score"].to_pylist(), 0.9, atol=1e-3)
    both = select(tmp_path / "run", Rule(false_drop_rate=0.05), **reference)
    found = both.table.filter(pa.compute.equal(both.table["reason"], "score"))["sha256"].to_pylist()
    assert set(away["sha256"].to_pylist()) <= set(found), "the default with a reference"
    with pytest.raises(SettingsError, match="at least 99 held-out pairs"):
        select(tmp_path / "run", Rule(signals=("reference_ratio",), false_drop_rate=0.01), **reference)
    audit(tmp_path / "train", tmp_path / "other", draws=1, seed=1)
    with pytest.raises(SettingsError, match="differ in seed"):
        select(tmp_path / "run", rule, reference=tmp_path / "other")


def test_an_incomplete_audit_is_refused_unless_asked(audit: Audit, select: Select, mixed: Path, tmp_path: Path) -> None:
    audit(mixed, tmp_path / "run", model=False)
    next((tmp_path / "run" / "markers").iterdir()).unlink()
    with pytest.raises(SettingsError, match="1 of 4 shards are missing or stale"):
        select(tmp_path / "run", Rule(dedup="sha256"))
    assert len(select(tmp_path / "run", Rule(dedup="sha256"), partial=True).table) < 33


def test_an_image_of_many_captions_is_held_to_the_same_statistic_as_one_of_few(select: Select, tmp_path: Path) -> None:
    """Nothing is memorised: the highest of twenty captions would lie above the only one of most held-out images."""
    rng = np.random.default_rng(0)
    held_out = [row(f"h{i}", [float(v)] * 2) for i, v in enumerate(rng.normal(size=200))]
    own = [row(f"i{i}", [float(v)] * 2, caption_hash=f"{i} {j}") for i in range(200) for j, v in
           enumerate(rng.normal(size=20))]  # fmt: skip
    write_audit(tmp_path / "held", held_out)
    write_audit(tmp_path / "own", own)
    selection = select(tmp_path / "own", Rule(max_score=1e9))
    assert selection.counts["kept"] == 4000
    for rate in (0.05, 0.2):
        found = select(tmp_path / "own", Rule(false_drop_rate=rate), held_out=tmp_path / "held")
        assert found.counts["score"] <= 4000 * (rate + 0.03)
    images = selection.table.to_pandas().groupby("sha256")["score"]
    values = {one["sha256"]: [] for one in own}  # type: dict[str, list[float]]
    for one in own:
        values[one["sha256"]].append(one["magnitude"][0])
    assert images.nunique().max() == 1
    for sha, score in images.first().items():
        assert score == pytest.approx(np.mean(values[sha]), rel=1e-5)


def test_pictures_without_structure_are_not_one_image(select: Select, tmp_path: Path) -> None:
    looks = {"a": "0f" * 8, "b": "0f" * 8, "c": "8000000000000000", "d": "8000000000000000", "e": None, "f": None}
    root = write_audit(tmp_path, [row(name, phash=look) for name, look in looks.items()])
    selection = select(root, Rule(dedup="phash"))
    assert selection.table["keep"].to_pylist() == [True, False, True, True, True, True]
    assert selection.table["detail"].to_pylist()[1] == "the same phash as 'a' in gone.tar"
    assert selection.counts == {"kept": 5, "duplicate": 1}


def test_what_is_taken_out_for_another_reason_is_nobodys_first(select: Select, tmp_path: Path) -> None:
    rows = [row("a", [9.0, 9.0]), row("b", [1.0, 1.0]), row("c", [2.0, 2.0]), row("d", [1.5, 1.5])]
    rows.append(row("broken", sha256=None, phash=None, status="bad_image", error="it is broken"))
    selection = select(write_audit(tmp_path, rows), Rule(max_score=5.0, dedup="phash"))
    assert selection.table["reason"].to_pylist() == ["score", None, "duplicate", "duplicate", "bad_image"]
    assert selection.table["detail"].to_pylist() == [
        "magnitude 9 is above 5", None, "the same phash as 'b' in gone.tar", "the same phash as 'b' in gone.tar",
        "it is broken",
    ]  # fmt: skip
    assert +selection.counts == {"score": 1, "kept": 1, "duplicate": 2, "bad_image": 1}


def test_rows_come_in_the_audits_order_however_they_are_read(
    audit: Audit, select: Select, mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit(mixed, tmp_path / "run", model=False)
    whole = select(tmp_path / "run", Rule(dedup="sha256")).table
    monkeypatch.setattr("memsieve.filtering.audit.select.BATCH", 3)
    parts = select(tmp_path / "run", Rule(dedup="sha256"))
    assert [len(batch) for batch in parts.batches()][:2] == [3, 3]
    assert parts.table.equals(whole) and parts.table.equals(whole), "and can be read twice"
    assert whole["index"].to_pylist()[:8] == list(range(8)) and len(whole) == 33
