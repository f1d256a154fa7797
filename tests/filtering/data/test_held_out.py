"""Which groups are held out, and their rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from memsieve.filtering.data.held_out import held_out_groups, held_out_rows, is_held_out
from memsieve.filtering.data.sources import Source, open_source
from tests.filtering.data.reading import config, keys, open_stream, write_shards


class TestHeldOut:
    def test_the_hash_is_uniform_stable_and_nested(self) -> None:
        groups = [f"group {n}" for n in range(20000)]
        tenth = {group for group in groups if is_held_out(group, 0.1)}
        assert 0.09 < len(tenth) / len(groups) < 0.11
        assert {group for group in groups if is_held_out(group, 0.05)} < tenth
        assert not any(is_held_out(group, 0.0) for group in groups)

    def test_training_and_held_out_rows_split_the_source(self, tmp_path: Path) -> None:
        data = config(write_shards(tmp_path / "s", [40, 40], bad=(3,)), held_out_fraction=0.3)
        source = open_source(data.path, data)
        chunk = open_stream(source, data).take(1000)
        held = held_out_rows(data, 0)
        assert sorted(chunk.held_out) == sorted(row.key for row in held)
        assert 10 < len(held) < 40
        assert sorted([*keys(chunk), *(int(row.key) for row in held), 3]) == list(range(80))
        assert all(is_held_out(row.group, 0.3) for row in held)
        assert len({(row.stream, row.epoch, row.offset) for row in held}) == len(held)

    def test_bounded_one_per_group_and_deterministic(self, tmp_path: Path) -> None:
        data = config(write_shards(tmp_path / "s", [30, 30]), held_out_fraction=0.4, held_out_max=5)
        write_shards(tmp_path / "s", [30, 30])
        first = [row.key for row in held_out_rows(data, 0)]
        assert first == [row.key for row in held_out_rows(data, 0)]
        assert len(set(first)) == 5
        double = config([data.path, data.path] if isinstance(data.path, str) else data.path, held_out_fraction=0.4)
        counts = Counter(row.group for row in held_out_rows(double, 0))
        assert set(counts.values()) == {1}

    def test_no_fraction_no_rows(self, tmp_path: Path) -> None:
        assert held_out_rows(config(write_shards(tmp_path / "s", [3])), 0) == []

    def test_a_path_of_its_own(self, tmp_path: Path) -> None:
        # Numbers 0..4 are in both; the fraction does not count then.
        held = write_shards(tmp_path / "held", [5], bad=(4,))
        data = config(write_shards(tmp_path / "s", [12]), held_out_path=held, held_out_fraction=0.4)
        groups = held_out_groups(data)
        assert groups is not None
        assert len(groups) == 5
        source: Source = open_source(data.path, data)
        chunk = open_stream(source, data, held_out_groups=groups).take(100)
        assert sorted(keys(chunk)) == list(range(4, 12))
        assert sorted(chunk.held_out) == ["000", "001", "002", "003"]
        assert sorted(row.key for row in held_out_rows(data, 0)) == ["000", "001", "002", "003"]
        assert held_out_groups(config()) is None
