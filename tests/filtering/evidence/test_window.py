"""The visits of one window: whichever rank made them, in the order of their positions."""

from __future__ import annotations

import math
from dataclasses import replace

from memsieve.filtering.evidence.window import VisitRecord, WindowVisits
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.types import Visit
from tests.filtering.data.ranks import on_ranks

PLACES = [(stream, epoch, offset) for stream in (0, 1) for epoch in (0, 1) for offset in (0, 1, 2)]


def visit(place: tuple[int, int, int]) -> Visit:
    stream, epoch, offset = place
    return Visit("k", stream=stream, epoch=epoch, offset=offset)


def record(number: int) -> VisitRecord:
    """A record of a visit, with numbers that float32 would round."""
    return VisitRecord(
        f"gröup {number}", 0.1 + number, 1e-9 * number, 1 / 3, 999 - number, number % 2 == 0, [0.1, number / 7]
    )


RECORDS = dict(zip(PLACES, map(record, range(len(PLACES))), strict=True))


def closed(places: list[tuple[int, int, int]], exchange: Exchange) -> list[VisitRecord]:
    visits = WindowVisits()
    for place in places:
        visits.add(visit(place), RECORDS[place])
    return visits.close(exchange)


def test_visits_come_in_the_order_of_their_positions_stream_first() -> None:
    assert closed(PLACES[::-1], Exchange()) == list(RECORDS.values())


def test_visits_of_all_ranks_arrive_whole_on_each_as_in_one_process() -> None:
    found = on_ranks(3, lambda rank, exchange: closed(PLACES[rank::3], exchange))
    assert found == [list(RECORDS.values())] * 3


def test_what_was_not_measured_and_padding_arrive_as_such() -> None:
    unmeasured = replace(record(1), score=math.nan, magnitude=math.nan, signals=[math.nan, 2.0])
    padding = VisitRecord("", math.nan, math.nan, 0.0, 3, False, [math.nan, math.nan])

    def both(rank: int, exchange: Exchange) -> list[VisitRecord]:
        visits = WindowVisits()
        visits.add(Visit("a", offset=rank), padding if rank else unmeasured)
        return visits.close(exchange)

    for first, second in on_ranks(2, both):
        assert math.isnan(first.score) and math.isnan(first.magnitude) and math.isnan(first.signals[0])
        assert (first.group, first.weight, first.signals[1]) == (unmeasured.group, 1 / 3, 2.0)
        assert second.group == "" and second.timestep == 3 and not second.drawn


def test_a_closed_window_begins_anew_and_one_without_visits_is_empty() -> None:
    def twice(rank: int, exchange: Exchange) -> list[int]:
        visits = WindowVisits()
        visits.add(Visit("a", offset=rank), record(rank))
        return [len(visits.close(exchange)), len(visits.close(exchange))]

    assert on_ranks(2, twice) == [[2, 0], [2, 0]]
    assert twice(0, Exchange()) == [1, 0]
