"""Names in 16 bytes each, found again whatever they are."""

from __future__ import annotations

import hashlib

from memsieve.filtering.evidence.key_index import Names


def content_ids(count: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(count)]


def test_names_of_any_kind_keep_their_row_over_growth_and_a_checkpoint() -> None:
    plain = content_ids(5000)
    odd = ["", "a", "A" * 32, "0" * 31, plain[0].upper(), " " + plain[1][1:], "ü" * 16, "x" * 64, "0x" + "1" * 30]
    given = [*plain[:10], *odd, *plain[10:]]
    names = Names(given)
    again = Names()
    again.load_state_dict(names.state_dict())
    for held in (names, again):
        assert len(held) == len(given) and list(held) == given
        assert [held.row(name) for name in given] == list(range(len(given)))
        assert held.row("unknown") == -1 and held.row("f" * 32) == -1
        assert held.add(given[7]) == 7 and held.add("new") == len(given)


def test_a_name_whose_digest_is_another_name_stays_apart() -> None:
    twin = hashlib.blake2b(b"made so", digest_size=16).hexdigest()
    for order in (["made so", twin], [twin, "made so"]):
        names = Names(order)
        assert list(names) == order and [names.row(name) for name in order] == [0, 1]


def test_equal_first_slots_are_told_apart() -> None:
    """All start at one slot: 1,000 names whose keys agree in the bits that the index looks at."""
    crowd = [f"{0:08x}{i:08x}{i:016x}" for i in range(1000)]
    names = Names(crowd)
    assert [names.row(name) for name in crowd] == list(range(1000))


def test_a_name_takes_28_bytes_or_less() -> None:
    names = Names(content_ids(100_000))
    again = Names()
    again.load_state_dict(names.state_dict())
    assert again.nbytes / len(again) <= 28
