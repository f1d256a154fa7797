"""What is said of a run whose held-out loss turns, or whose training pairs leave the others behind."""

from __future__ import annotations

import torch

from memsieve.train.overfits import OverfitWatch


def losses(pairs: int, level: float, seed: int, spread: float = 0.3, noise: float = 0.02) -> torch.Tensor:
    """[pairs, 4]: each pair has a level of its own at every look, and each look its own noise."""
    own = torch.randn(pairs, 1, generator=torch.Generator().manual_seed(1)) * spread
    of_look = torch.randn(pairs, 4, generator=torch.Generator().manual_seed(seed)) * noise
    return level * (own + of_look).exp()


def test_a_set_of_28_whose_held_out_loss_doubles_is_never_said_to_be_well() -> None:
    """However many held-out pairs: with two of them, and with one."""
    for count in (1, 2, 3, 10, 28):
        watch = OverfitWatch()
        for step, held, seen in ((0, 0.115, 0.12), (150, 0.12, 0.1), (300, 0.17, 0.06), (450, 0.239, 0.035)):
            watch.note(step, losses(count, held, step), losses(28, seen, step + 1))
        assert watch.overfits is True, count
        assert watch.best is not None and watch.best.step in (0, 150)


def test_it_is_said_once_when_it_is_true_and_why() -> None:
    watch = OverfitWatch()
    assert watch.note(0, losses(20, 0.2, 0), losses(20, 0.2, 1)) is None
    assert watch.note(50, losses(20, 0.15, 2), losses(20, 0.14, 3)) is None and watch.overfits is False
    said = watch.note(100, losses(20, 0.18, 4), losses(20, 0.14, 5))
    assert said is not None and said.startswith("overfits: at step 100 held-out loss has turned: 0.1")
    assert "at step 50" in said and watch.since == 100
    assert watch.note(150, losses(20, 0.3, 6), losses(20, 0.1, 7)) is None, "once"


def test_the_gap_alone_is_enough() -> None:
    watch = OverfitWatch()
    watch.note(0, losses(20, 0.2, 0), losses(20, 0.25, 1))
    said = watch.note(100, losses(20, 0.19, 2), losses(20, 0.12, 3))
    assert said is not None and "the gap opens" in said and "turned" not in said


def test_a_run_that_learns_for_all_is_well() -> None:
    """Training pairs a little better, held-out loss up and down by noise."""
    watch = OverfitWatch()
    for step in range(0, 1000, 50):
        level = 0.2 - 0.05 * min(step, 500) / 500
        assert watch.note(step, losses(40, level, step), losses(40, 0.93 * level, step + 1)) is None
    assert watch.overfits is False


def test_pairs_that_differ_in_difficulty_open_no_gap() -> None:
    watch = OverfitWatch()
    for step in (0, 50, 100):
        watch.note(step, losses(20, 0.3, step), losses(20, 0.1, step + 1))
    assert watch.overfits is False


def test_without_held_out_pairs_nobody_knows() -> None:
    watch = OverfitWatch()
    watch.note(0, torch.zeros(0, 4), losses(20, 0.2, 1))
    watch.note(50, torch.zeros(0, 4), losses(20, 0.01, 2))
    assert watch.overfits is None and watch.best is None


def test_it_goes_on_exactly() -> None:
    watch, other = OverfitWatch(), OverfitWatch()
    watch.note(0, losses(20, 0.2, 0), losses(20, 0.2, 1))
    watch.note(50, losses(20, 0.15, 2), losses(20, 0.14, 3))
    other.load_state_dict(watch.state_dict())
    assert other.note(50, losses(20, 9.0, 2), losses(20, 0.1, 3)) is None, "a resumed run looks again where it stopped"
    later = losses(20, 0.18, 4), losses(20, 0.14, 5)
    assert other.note(100, *later) == watch.note(100, *later) is not None
    assert other.looks == watch.looks and other.best == watch.best
