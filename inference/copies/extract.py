"""What lies between the model before fine-tuning and the finished one, drawn larger: an attack on the training set.

Whoever publishes a fine-tune or a LoRA, of a base that everybody has, gives away both. Fine-tuning moves the model's
distribution a share of the way from the base's to that of the training set; so a sampler that goes on in the same
direction, eps_c + w (eps_c - eps_c^base), draws from near the training set. Many are drawn, and what was learned by
heart comes out again and again: the largest cluster of drawings that show one picture is the attacker's guess
(FineXtract: Wu, Zhang & Wu, "Leveraging Model Guidance to Extract Training Data from Personalized Diffusion Models",
ICML 2025; written from the paper).

Held-out pairs, whose captions the attack is given alike, are the control: only a rate above theirs says something.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from memsieve.inference.copies.attack import AttackSettings, Target
from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.probe import ProbeResult
from memsieve.inference.copies.rate import copy_rate
from memsieve.inference.drawn import draw_along
from memsieve.inference.guided import Combine, GuidedModel
from memsieve.inference.progress import progress_bar
from memsieve.inference.resume import ImageStore

__all__ = ["DRAWS", "Cluster", "beyond", "extract_pairs", "largest_cluster"]

DRAWS: Final = 12
"""Drawings of a caption, among which a cluster is looked for."""
WEIGHT: Final = 2.0
"""How far the sampler goes beyond the model: the paper's w' = 3 on few-shot fine-tunes, which counts from the base."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Drawings that show one picture: the row of the one in their middle, and their share of all."""

    middle: int
    share: float


def beyond(weight: float = WEIGHT) -> Combine:
    """The prediction that lies beyond the model's, seen from the base."""
    return lambda step: step.cond + weight * (step.cond - step.other("drift"))


def largest_cluster(distances: Tensor, threshold: float) -> Cluster:
    """Of drawings with these ``distances`` [n, n]: the one with most others nearer than ``threshold``, and among those
    alike the one that lies nearest to its own."""
    near = distances < threshold
    near.fill_diagonal_(True)
    counts = near.sum(1)
    spread = torch.where(near, distances, torch.zeros_like(distances)).sum(1) / counts
    most = counts == counts.max()
    middle = int(torch.where(most, spread, torch.full_like(spread, float("inf"))).argmin())
    return Cluster(middle, float(counts[middle]) / len(distances))


def extract_pairs(
    model: GuidedModel, targets: Sequence[Target], judge: CopyJudge, settings: AttackSettings, *, progress: bool = True,
    store: ImageStore | None = None,
) -> ProbeResult:  # fmt: skip
    """For each target ``DRAWS`` drawings beyond the model by its caption, the middle of the largest cluster judged.

    Two drawings show one picture where they are as near as the judge wants a copy to its training image. With a
    ``store`` a target whose drawings it holds is not drawn again.

    Raises:
        ValueError: the model was opened without its base.
    """
    if model.base is None:
        raise ValueError("this attack goes on from the model before fine-tuning: name it with --base")
    guesses: list[Tensor] = []
    shares: list[float] = []
    with progress_bar(progress) as bar:
        task = bar.add_task("extrapolating from the base", total=len(targets))
        for target in targets:
            name = f"beyond:{target.group}"
            drawn = None if store is None else store.load(name)
            if drawn is None:
                drawn = _drawn(model, target, settings)
                drawn = drawn if store is None else store.save(name, drawn)
            embedded = judge.similarity.embed(drawn)
            found = largest_cluster(judge.similarity.distance(embedded, embedded), judge.threshold)
            guesses.append(drawn[found.middle])
            shares.append(found.share)
            bar.advance(task)
    images = torch.stack(guesses)
    verdicts = judge.judge(images, [target.group for target in targets])
    return ProbeResult(images, verdicts, copy_rate(verdicts), shares)


def _drawn(model: GuidedModel, target: Target, settings: AttackSettings) -> Tensor:
    """``DRAWS`` drawings [n, 3, H, W] of a caption, as many at a time as the attack's batch."""
    cond, against = model.encode([target.caption]), model.against([target.caption], ("drift",))
    assert against is not None
    noise = model.noise([f"beyond:{target.caption}"] * DRAWS, range(DRAWS), settings.seed, target.pixels.shape[-1])
    return torch.cat([
        draw_along(
            model, part, (cond.expand(len(part)), None), steps=settings.steps, against=against.expand(len(part)),
            combine=beyond(),
        )
        for part in noise.split(settings.batch)
    ])  # fmt: skip
