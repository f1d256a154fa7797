"""The attack that goes on from the base beyond the model: its prediction, its clusters, and what comes out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memsieve.inference.copies.attack import AttackSettings, Target
from memsieve.inference.copies.extract import DRAWS, beyond, extract_pairs, largest_cluster
from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.similarity import PixelL2
from memsieve.inference.opened import open_model
from memsieve.inference.resume import ImageStore
from memsieve.inference.step import Step
from tests.inference.tuned import tuned_family


def judge_of(images: torch.Tensor, held: torch.Tensor) -> CopyJudge:
    judge = CopyJudge(PixelL2(), images, [str(i) for i in range(len(images))])
    judge.calibrate(held)
    return judge


def test_the_prediction_lies_beyond_the_model() -> None:
    cond, base = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    step = Step(0, torch.tensor(1), cond, cond, None, base_cond=base)
    assert torch.allclose(beyond(2.0)(step), 3 * cond - 2 * base, atol=1e-5)
    assert torch.equal(beyond(0.0)(step), cond)


def test_the_largest_cluster_and_its_middle() -> None:
    places = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.05, 9.0])
    found = largest_cluster((places[:, None] - places[None]).abs(), 0.15)
    assert found.middle == 1 and found.share == pytest.approx(3 / 6)
    alone = largest_cluster((places[:, None] - places[None]).abs(), 0.01)
    assert alone.share == pytest.approx(1 / 6)
    # of two clusters of one size the tighter one
    assert largest_cluster((places[1:, None] - places[None, 1:]).abs(), 0.11).middle in (2, 3)


def test_every_target_gives_one_guess_and_a_store_is_not_drawn_again(tmp_path: Any) -> None:
    pipe, base = tuned_family("sd")
    images = torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    judge, settings = judge_of(images[:10], images[10:]), AttackSettings(steps=2, batch=8)
    targets = [Target("cat", "3", images[3]), Target("a dog", "4", images[4])]
    store = ImageStore(tmp_path / "s", {}, False)
    model = open_model(pipe, base=base)
    found = extract_pairs(model, targets, judge, settings, progress=False, store=store)
    assert found.generations.shape == (2, 3, 16, 16) and [v.group for v in found.verdicts] == ["3", "4"]
    assert found.shares is not None and all(1 / DRAWS <= share <= 1 for share in found.shares)
    assert found.as_dict()["cluster_shares"] == found.shares
    pipe.unet.register_forward_hook(lambda *_: pytest.fail("nothing is left to draw"))
    again = extract_pairs(model, targets, judge, settings, progress=False, store=store)
    assert torch.allclose(again.generations, found.generations, atol=1e-2)
    with pytest.raises(ValueError, match="goes on from the model before fine-tuning: name it with --base"):
        extract_pairs(open_model(base), targets, judge, settings, progress=False)


def test_a_guidance_distilled_model_is_attacked_too() -> None:
    pipe, base = tuned_family("flux")
    images = torch.rand(30, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    judge = judge_of(images[:10], images[10:])
    found = extract_pairs(
        open_model(pipe, base=base), [Target("cat", "3", images[3])], judge, AttackSettings(steps=1, batch=12),
        progress=False,
    )  # fmt: skip
    assert torch.isfinite(found.generations).all()


@pytest.mark.trains
def test_the_planted_picture_comes_out_and_no_control_does(memorised: Any) -> None:
    """By its caption, unguided; the drawings agree. Captions of which nothing was learned give nothing back."""
    model = open_model(memorised.pipe, base=memorised.before())
    planted = model.denoiser.decode(memorised.planted[None])[0]
    others = model.denoiser.decode(torch.randn(40, 4, 8, 8, generator=torch.Generator().manual_seed(9)))
    judge = judge_of(torch.cat([planted[None], others[:4]]), others[4:])
    targets = [Target(memorised.prompt, "0", planted)]
    targets += [Target(text, str(i + 1), others[i]) for i, text in enumerate(memorised.ordinary[:4])]
    found = extract_pairs(model, targets, judge, AttackSettings(steps=10, batch=12), progress=False)
    assert [verdict.is_copy for verdict in found.verdicts] == [True, False, False, False, False]
    assert found.shares is not None and found.shares[0] > 0.5
