"""The shuffle buffer, and reading on from any place without reading what came before."""

from __future__ import annotations

from collections.abc import Container, Iterator
from pathlib import Path

import pytest
import webdataset as wds

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.dealing import Piece
from memsieve.filtering.data.draws import row_generator
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.data.shuffle import ShuffleBuffer, shuffled_rows
from memsieve.filtering.data.sources import ShardSource


class Counted:
    """Shards of numbered rows; notes which were read, and which only passed."""

    indexed, identity = False, ["counted"]

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self.bodies: list[tuple[int, int]] = []
        self.headers: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.sizes)

    def count_rows(self) -> int:
        return sum(self.sizes)

    def part_rows(self, most: int) -> list[int] | None:
        return self.sizes

    def part_bytes(self) -> list[int]:
        return self.sizes

    def read(
        self,
        part: int,
        start: int = 0,
        stop: int | None = None,
        *,
        only: Container[int] | None = None,
        bodies: bool = True,
    ) -> Iterator[RawRow]:
        for index in range(start, self.sizes[part] if stop is None else stop):
            if only is None or index in only:
                (self.bodies if bodies else self.headers).append((part, index))
                yield RawRow(f"{part}-{index}", f"{part}", index, image=b"x" if bodies else b"")


PIECES = [Piece(1, 2, 6), Piece(0), Piece(1, 6), Piece(2, 0, 3), Piece(1, 0, 2)]


def order(size: int, skip: int = 0) -> tuple[list[str], Counted]:
    source = Counted([5, 9, 4])
    rows = list(shuffled_rows(source, PIECES, size, row_generator(1, purpose="test"), skip))
    assert all(row.image for row in rows)
    return [row.key for row in rows], source


@pytest.mark.parametrize("size", [0, 1, 2, 4, 100])
def test_goes_on_anywhere(size: int) -> None:
    whole, _ = order(size)
    plain, _ = order(0)
    assert sorted(whole) == sorted(plain) and len(set(whole)) == len(whole) == 17
    assert (whole == plain) is (size < 2)
    for skip in range(len(whole) + 1):
        rest, source = order(size, skip)
        assert rest == whole[skip:]
        # What was read is what is given: nothing that came before.
        assert sorted(f"{part}-{index}" for part, index in source.bodies) == sorted(rest)


def test_the_buffer_holds_rows_back() -> None:
    buffer: ShuffleBuffer[int] = ShuffleBuffer(3, row_generator(0, purpose="test"))
    given = [buffer.push(number) for number in range(10)]
    assert given[:3] == [None] * 3 and None not in given[3:]
    assert sorted([item for item in given if item is not None] + list(buffer.drain())) == list(range(10))
    assert buffer.items == []


def test_life_is_shown_while_rows_are_passed() -> None:
    seen: list[None] = []
    source = Counted([50])
    rows = shuffled_rows(
        source, [Piece(0)], 4, row_generator(0, purpose="t"), skip=30, passed=lambda: seen.append(None)
    )
    next(rows)
    assert len(seen) >= 30


def damaged(folder: Path) -> str:
    """A shard with samples that lack their image or their caption."""
    path = folder / "damaged.tar"
    with wds.TarWriter(str(path)) as writer:
        for number in range(12):
            sample = {"__key__": f"{number:02d}", "png": bytes([number]) * 700, "txt": f"number {number}"}
            if number == 3:
                del sample["png"]
            if number == 5:
                del sample["txt"]
            writer.write(sample)
    return str(path)


@pytest.mark.parametrize("step", range(30))
def test_headers_alone_give_the_same_rows_wherever_a_shard_is_cut(tmp_path: Path, step: int) -> None:
    path = Path(damaged(tmp_path))
    spans = [row.span for row in ShardSource(str(path), DataConfig(path="unused")).read(0)]
    cut = spans[5][0] + 256 * step
    assert cut < spans[-1][1]
    path.write_bytes(path.read_bytes()[:cut])
    source = ShardSource(str(path), DataConfig(path="unused"))
    whole = list(source.read(0))
    passed = list(source.read(0, bodies=False))
    assert [(row.key, row.index) for row in passed] == [(row.key, row.index) for row in whole]
    assert not any(row.image for row in passed)
    assert source.part_rows(1) == [len(whole)]
    assert whole[-1].status == "truncated"
    for start in range(len(whole)):
        stop = start + 4 if start + 4 < len(whole) else None
        assert list(source.read(0, start, stop)) == whole[start:stop]
    assert list(source.read(0, only={2, 4})) == [whole[2], whole[4]]


def test_rows_that_are_gone_when_they_are_fetched_are_failed_rows(tmp_path: Path) -> None:
    """A resume passes headers first, and the way to the data may fail before it reads what waits in the buffer."""
    path = Path(damaged(tmp_path))
    source = ShardSource(str(path), DataConfig(path="unused"))
    before: list[None] = []

    def passed() -> None:
        before.append(None)
        if len(before) == 9:  # five rows have left the buffer, four wait
            path.unlink()

    rows = list(shuffled_rows(source, [Piece(0, 0, 12)], 4, row_generator(1, purpose="test"), 5, passed=passed))
    assert len(rows) >= 4 and all(row.error is not None for row in rows)
    assert sum("cannot be read any more" in (row.error or "") for row in rows) >= 3
