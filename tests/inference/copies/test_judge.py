"""The judge of copies and its calibration."""

import math

import pytest
import torch

from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.similarity import build_similarity


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def judge() -> CopyJudge:
    groups = [f"g{number // 2}" for number in range(60)]
    keys = [f"k{number}" for number in range(60)]
    judge = CopyJudge(build_similarity("pixel_l2"), pictures(60, 0), groups, keys=keys, chunk=7)
    judge.calibrate(pictures(199, 1))
    return judge


def test_copies_and_originals(judge: CopyJudge) -> None:
    training = pictures(60, 0)
    generations = torch.cat([training[[8, 9, 20]] * 0.95, pictures(3, 5)])
    found = judge.judge(generations, ["g4", "g4", "g0", "g1", "g2", "unseen"])
    assert [item.is_copy for item in found] == [True, True, False, False, False, False]
    assert [item.nearest_key for item in found[:3]] == ["k8", "k9", "k20"]
    assert found[2].nearest_group == "g10" and not found[2].nearest_is_own, "another group's image is no own copy"
    assert found[0].distance == found[0].own_distance and found[2].own_distance > found[2].distance
    assert found[0].p == 1 / 200 and math.isnan(found[5].own_distance)


def test_threshold_is_the_quantile_that_p_names(judge: CopyJudge) -> None:
    assert judge.null is not None and judge.threshold == judge.null[9]  # floor(.05 * 200) = 10th smallest
    assert (judge.null < judge.threshold).sum() == 9


def test_chunks_change_nothing(judge: CopyJudge) -> None:
    groups = [f"g{number // 2}" for number in range(60)]
    whole = CopyJudge(build_similarity("pixel_l2"), iter(pictures(60, 0).split(11)), groups, chunk=1000)
    assert whole.calibrate(pictures(199, 1)) == pytest.approx(judge.threshold)
    asked = pictures(30, 7)
    left, right = (one.judge(asked, groups[:30]) for one in (whole, judge))
    assert [(a.nearest_group, a.p) for a in left] == [(b.nearest_group, b.p) for b in right]


def test_false_copies_are_rarer_than_alpha(judge: CopyJudge) -> None:
    found = judge.judge(pictures(400, 9), [f"g{number % 30}" for number in range(400)])
    assert sum(item.p <= 0.05 for item in found) < 50 and sum(item.is_copy for item in found) <= 4


def test_held_out_images_skip_their_own_group() -> None:
    training = pictures(30, 0)
    names = [f"g{number}" for number in range(30)]
    one = CopyJudge(build_similarity("pixel_l2"), training, names)
    with pytest.warns(UserWarning, match="twins"):
        assert one.calibrate(training) == 0
    assert one.calibrate(training, names) > 0.5


def test_twins_of_another_group_do_not_take_the_copy_away() -> None:
    training = torch.cat([pictures(1, 0), pictures(1, 0), pictures(10, 1)])
    one = CopyJudge(build_similarity("pixel_l2"), training, [f"g{number}" for number in range(12)])
    one.calibrate(pictures(20, 2))
    assert all(item.is_copy for item in one.judge(training[:2], ["g0", "g1"]))
    assert one.judge(training[:2], ["g0", "g1"])[1].nearest_group == "g1"


def test_refusals() -> None:
    similarity = build_similarity("pixel_l2")
    with pytest.raises(ValueError, match="no training image"):
        CopyJudge(similarity, torch.empty(0, 3, 8, 8), [])
    with pytest.raises(ValueError, match="each image needs one"):
        CopyJudge(similarity, pictures(3, 0), ["a"])
    one = CopyJudge(similarity, pictures(3, 0), ["a", "b", "c"], alpha=0.01)
    with pytest.raises(ValueError, match="not calibrated"):
        one.judge(pictures(1, 1), ["a"])
    with pytest.raises(ValueError, match="at least 99"):
        one.calibrate(pictures(98, 1))
