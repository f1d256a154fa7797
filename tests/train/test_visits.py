"""The draws of visits: by position, once, the same with and without a plan, an audit's where its reference is read."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from memsieve.filtering.data.draws import VisitDraw, normal_like, row_generator
from memsieve.filtering.data.rows import Row
from memsieve.filtering.filter import MemorizationFilter
from memsieve.train import visits as module
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.visits import DrawnVisit, draw_visits, draw_window, plain_samples, random_tokens, training_samples
from tests.train.conftest import NoModel

SETTINGS = DrawSettings(seed=5, resolution=8, caption_dropout=0.4, max_timestep=0.75)


def rows(*numbers: int | None) -> list[Row | None]:
    def row(n: int) -> Row:
        return Row(f"k{n}", "s.tar", n, f"g{n}", f"a caption of {n}", torch.full((3, 8, 8), n / 100), n % 4, 0, n)

    return [None if n is None else row(n) for n in numbers]


def trained(*numbers: int | None, batch_size: int = 4, settings: DrawSettings = SETTINGS) -> list[DrawnVisit]:
    visits, plan = draw_window(NoModel(), rows(*numbers), settings, batch_size, None, None)
    assert plan is None
    return visits


def same(one: DrawnVisit, other: DrawnVisit) -> bool:
    plain = ("timestep", "draw", "readable", "usable")
    tensors = ("noise", "vae_noise", "perturbation")
    equal = all(getattr(one, name) == getattr(other, name) for name in plain)
    for name in tensors:
        a, b = getattr(one, name), getattr(other, name)
        equal = equal and (b is None if a is None else torch.equal(a, b))
    return equal and (one.sample.visit, one.sample.caption) == (other.sample.visit, other.sample.caption)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[Any, ...]]:
    """Counts the generators that are made, by position and purpose."""
    counted: Counter[tuple[Any, ...]] = Counter()

    def generator(seed: int, *parts: Any, purpose: str) -> Any:
        counted[*parts, purpose] += 1
        return row_generator(seed, *parts, purpose=purpose)

    monkeypatch.setattr(module, "row_generator", generator)
    return counted


def test_a_visit_is_drawn_by_its_position_whatever_stands_beside_it() -> None:
    whole = trained(*range(12))
    alone = {n: trained(n)[0] for n in range(12)}
    mixed = dict(zip((7, 3, 11, 0), trained(7, 3, 11, 0, batch_size=2), strict=True))
    assert all(same(whole[n], alone[n]) for n in range(12)) and all(same(mixed[n], alone[n]) for n in mixed)
    assert len({visit.timestep for visit in whole}) > 6
    assert not same(trained(3, settings=DrawSettings(seed=6, resolution=8))[0], alone[3])


def test_the_generators_and_the_order_of_draws_are_those_that_runs_resume_with() -> None:
    """Another order within a generator is another run: resumed ones would not go on as they began."""
    for n, visit in enumerate(trained(*range(8))):
        position = (n % 4, 0, n)
        draw = row_generator(5, *position, purpose="noise")
        assert visit.timestep == draw.integers(1000)
        assert torch.equal(visit.noise, normal_like(draw, (4, 2, 2)))
        assert torch.equal(visit.vae_noise, normal_like(draw, (4, 2, 2)))
        lost = row_generator(5, *position, purpose="caption").random() < 0.4
        assert visit.sample.caption == ("" if lost else f"a caption of {n}")


def test_noise_beside_the_noise_is_drawn_apart() -> None:
    (plain,), (other,) = trained(3), trained(3, settings=DrawSettings(5, 8, noise_offset=0.1, input_perturbation=0.2))
    shift = normal_like(row_generator(5, 3, 0, 3, purpose="noise offset"), (4, 1, 1))
    further = normal_like(row_generator(5, 3, 0, 3, purpose="noise perturbation"), (4, 2, 2))
    assert torch.equal(other.noise, plain.noise + 0.1 * shift) and plain.perturbation is None
    assert other.perturbation is not None and torch.equal(other.perturbation, 0.2 * further)
    assert other.timestep == plain.timestep and torch.equal(other.vae_noise, plain.vae_noise)


def test_random_tokens_leave_the_dropped_captions_as_they_were() -> None:
    plain = trained(*range(20))
    added = trained(*range(20), settings=DrawSettings(5, 8, caption_dropout=0.4, random_tokens=2))
    lost = [visit.sample.caption == "" for visit in plain]
    assert [visit.sample.caption == "" for visit in added] == lost and 2 < sum(lost) < 15
    for n, visit in enumerate(added):
        if not lost[n]:
            words = row_generator(5, n % 4, 0, n, purpose="caption")
            words.random()
            assert visit.sample.caption == random_tokens(f"a caption of {n}", NoModel.tokenizer, 2, words)
            assert len(visit.sample.caption.split()) == 6


def test_what_says_something_and_what_is_evidence() -> None:
    """Captions, the floor of epsilon space (NoModel's is at t = 900), and the share of the schedule."""
    found = trained(*range(60))
    for visit in found:
        captioned = visit.sample.caption != ""
        assert visit.readable == (captioned and visit.timestep < 900)
        assert visit.usable == (captioned and visit.timestep < 750)
    assert len({(visit.readable, visit.usable) for visit in found}) == 3
    everywhere = trained(*range(60), settings=DrawSettings(5, 8, caption_dropout=0.4))
    assert [visit.usable for visit in everywhere] == [visit.readable for visit in found]


def test_padding_is_keyed_by_its_place_in_its_batch_and_shows_nothing() -> None:
    found = trained(0, None, 1, None, batch_size=2)
    assert [visit.sample.present for visit in found] == [True, False, True, False]
    padding = found[1], found[3]
    assert same(*padding) and padding[0].sample.position == ("padding", 0, 1)
    assert not any(visit.usable or visit.sample.visit.key or visit.sample.pixels.any() for visit in padding)


def test_an_image_that_is_not_finite_is_replaced() -> None:
    (row,) = rows(3)
    assert row is not None
    row.pixels[0, 0, 0] = float("nan")
    (sample,) = training_samples(NoModel(), [row], SETTINGS, 1)
    assert sample.present and not sample.finite and not sample.pixels.any() and sample.visit.key == "k3"


def test_plain_samples_keep_their_captions_and_take_positions_of_others() -> None:
    samples = plain_samples(rows(1, 2), SETTINGS, [("calibration", 0, 7), ("calibration", 0, 8)])
    visits = draw_visits(NoModel(), samples, SETTINGS, among=[5, 6, 7])
    assert [visit.sample.caption for visit in visits] == ["a caption of 1", "a caption of 2"]
    draw = row_generator(5, "calibration", 0, 7, purpose="noise")
    assert visits[0].timestep == [5, 6, 7][int(draw.integers(3))]
    assert torch.equal(visits[0].noise, normal_like(draw, (4, 2, 2)))


def at_the_loader(**options: Any) -> MemorizationFilter:
    shared = {"apply": "sieve", "record": [], "score_budget": 1.0}
    return MemorizationFilter(**{**shared, "signals": ["loss"], **options})


@pytest.mark.usefixtures("from_the_first_visit")
def test_a_plan_changes_no_draw_and_nothing_is_drawn_twice(made: Counter[tuple[Any, ...]]) -> None:
    plain = trained(*range(8))
    once = dict(made)
    made.clear()
    planned, plan = draw_window(NoModel(), rows(*range(8)), SETTINGS, 4, at_the_loader(), None)
    assert plan is not None and [v >= 0 for v in plan.visits] == [visit.usable for visit in plain]
    assert all(same(*pair) for pair in zip(plain, planned, strict=True))
    assert dict(made) == once == dict.fromkeys(once, 1) and len(once) == 2 * 8


class Audit:
    """A reference that was looked up: every draw at t = 777."""

    draws = 3

    def draw(self, content: str, visit: int, shape: tuple[int, ...]) -> VisitDraw:
        return VisitDraw(777, torch.full(shape, float(visit)), torch.full(shape, float(content[1:])))


@pytest.mark.usefixtures("from_the_first_visit")
def test_what_is_measured_takes_the_audits_draws_and_the_rest_its_own(made: Counter[tuple[Any, ...]]) -> None:
    plain = trained(*range(8))
    made.clear()
    sieve = at_the_loader(signals=["reference_ratio"], reference="an audit")
    visits, plan = draw_window(NoModel(), [*rows(*range(7)), None], SETTINGS, 4, sieve, Audit())  # type: ignore[arg-type]
    assert plan is not None
    audited = [number >= 0 for number in plan.visits]
    assert audited == [visit.sample.caption != "" for visit in visits] and {True, False} == set(audited)
    for n, visit in enumerate(visits[:7]):
        if audited[n]:
            assert (visit.timestep, visit.draw) == (777, 0) and bool((visit.vae_noise == n).all())
            assert visit.readable and not visit.usable, "the audit's own t is beyond max_timestep"
        else:
            assert same(visit, plain[n]) and visit.draw == -1
    drawn = [key for key in made if key[-1] == "noise"]
    assert len(drawn) == audited.count(False) and set(made.values()) == {1}


def test_a_condemned_group_loses_its_caption_before_anything_is_measured() -> None:
    pair_filter = MemorizationFilter(signals=["loss"], policy="caption")
    pair_filter.condemned["g2"] = 1
    settings = DrawSettings(seed=5, resolution=8)
    visits, _ = draw_window(NoModel(), rows(1, 2, 3), settings, 3, pair_filter, None)
    assert [visit.sample.caption for visit in visits] == ["a caption of 1", "", "a caption of 3"]
    assert not visits[1].readable
