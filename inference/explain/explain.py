"""Which words make a model regurgitate? The gradient of what detection measures for each token's embedding.

SS_i = mean over steps and images of ||d d / d e_i||_2 (Wen et al., ICLR 2024, section 4.2), where d is the magnitude of
one image and e the conditioning that the network sees. Beside the model before fine-tuning d is the drift, ||eps_c -
eps_c^base|| / sqrt(n): the words that call up what the fine-tune has learned. The base's own prediction is by its own
encoding of the prompt, and a constant of e. The trajectory is the sampler's own guided one, and gradients
are taken image by image: neither depends on how many images are measured together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memsieve.filtering.denoisers.base import TextPart
from memsieve.inference.detect.detectors import DETECTORS, DetectSettings
from memsieve.inference.explain.words import TokenTable, cut_text, token_table
from memsieve.inference.gradients import measured_and_gradient
from memsieve.inference.guided import GuidedModel
from memsieve.inference.opened import open_model
from memsieve.inference.step import norm_of

__all__ = [
    "EncoderSignificance",
    "Explanation",
    "TokenScore",
    "WordScore",
    "explain",
]


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One position of an encoder's sequence. ``kind`` is start, word, end or padding."""

    position: int
    text: str
    kind: str
    word: int | None
    significance: float


@dataclass(frozen=True, slots=True)
class WordScore:
    """A word of the prompt as it was written; ``significance`` is the root of its tokens' summed squares, the norm of
    the gradient over all of them together. 0 for a word beyond the encoder's end."""

    index: int
    text: str
    significance: float


@dataclass(frozen=True, slots=True)
class EncoderSignificance:
    """One text encoder: every position, the words, and specials and padding apart, each as one norm."""

    encoder: str
    tokens: list[TokenScore]
    words: list[WordScore]
    start: float
    end: float
    padding: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """``words`` over all encoders; ``encoders`` one by one; ``value`` is the mean of ``measure`` over steps and images.

    ``pooled`` is the norm of the gradient with respect to the pooled embedding, which belongs to no word; None where
    the family has none.
    """

    prompt: str
    measure: str
    value: float
    steps: list[int]
    images: int
    words: list[WordScore]
    encoders: list[EncoderSignificance]
    cut: str
    pooled: float | None = None

    def heaviest(self, count: int) -> list[WordScore]:
        """The ``count`` most significant words, heaviest first."""
        return sorted(self.words, key=lambda word: -word.significance)[:count]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@torch.inference_mode(False)
def explain(
    model: Any,
    prompt: str,
    *,
    settings: DetectSettings | None = None,
    at_steps: Sequence[int] | None = None,
    batch: int = 4,
) -> Explanation:
    """How much each word of ``prompt`` moves what is measured of it.

    Args:
        model: a pipeline folder or a pipeline; what ``open_model`` gives, where another scheduler is wanted.
        settings: as in detection; ``steps`` is how far the trajectory runs, and the first measure of ``detector`` is
            explained.
        at_steps: the steps, from 0, at which gradients are taken; all of ``settings.steps`` if left out.
        batch: images at a time.

    Raises:
        ValueError: an empty prompt, a step outside the schedule, or a setting or model that does not fit.
    """
    settings = settings or DetectSettings()
    opened, prompt = open_model(model), prompt.strip()
    if not prompt:
        raise ValueError("the prompt is empty: there is no word to explain")
    chosen = _chosen_steps(at_steps, settings)
    layout = opened.denoiser.text_layout()
    found = _Gradients([[] for _ in layout], [], [])
    for start in range(0, settings.images_per_prompt, batch):
        numbers = list(range(start, min(start + batch, settings.images_per_prompt)))
        _accumulate(opened, layout, prompt, numbers, chosen, settings, found)
    significance = [np.mean(np.concatenate(norms), axis=0) for norms in found.parts]
    if not all(np.isfinite(values).all() for values in significance):
        raise ValueError("the gradients are not finite in this precision; take --dtype float32 or bfloat16")
    encoders = [
        _encoder(part.encoder, token_table(part, prompt), values)
        for part, values in zip(layout, significance, strict=True)
    ]
    return Explanation(
        prompt=prompt,
        measure=DETECTORS[settings.detector].measures[0],
        value=float(np.mean(found.values)),
        steps=chosen,
        images=settings.images_per_prompt,
        words=_over_encoders(encoders),
        encoders=encoders,
        cut=cut_text(layout, prompt),
        pooled=float(np.mean(found.pooled)) if found.pooled else None,
    )


def _chosen_steps(at_steps: Sequence[int] | None, settings: DetectSettings) -> list[int]:
    chosen = sorted(set(range(settings.steps) if at_steps is None else at_steps))
    if not chosen or chosen[0] < 0 or chosen[-1] >= settings.schedule_steps:
        raise ValueError(
            f"--at-steps = {chosen}: must be from 0 to {settings.schedule_steps - 1} (--schedule-steps - 1)"
        )
    return chosen


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Norms gathered over steps and images: ``parts[k]`` a list of [n, L_k], ``pooled`` and ``values`` one each."""

    parts: list[list[npt.NDArray[np.float64]]]
    pooled: list[float]
    values: list[float]


def _accumulate(
    model: GuidedModel, layout: list[TextPart], prompt: str, numbers: list[int], chosen: list[int],
    settings: DetectSettings, found: _Gradients,
) -> None:  # fmt: skip
    count = len(numbers)
    noise = model.noise([prompt] * count, numbers, settings.seed, settings.resolution)
    cond = model.encode([prompt]).expand(count)
    uncond, measure = model.unconditional(count), DETECTORS[settings.detector].measures[0]
    against = model.against([prompt], (measure,))
    steps = model.trajectory(
        noise, cond, uncond, steps=chosen[-1] + 1, schedule_steps=settings.schedule_steps,
        guidance_scale=settings.guidance_scale, against=against.expand(count) if against is not None else None,
    )  # fmt: skip
    for step in steps:
        if step.index not in chosen:
            continue
        compared = model.compared(step, cond, uncond, measure)
        value, gradient = measured_and_gradient(model, compared, settings.space)
        states = gradient["encoder_hidden_states"].double()
        for part, norms in zip(layout, found.parts, strict=True):
            own = states[:, part.first : part.first + part.length, slice(*part.features)]
            norms.append(torch.linalg.vector_norm(own, dim=-1).cpu().numpy())
        if "pooled" in gradient:
            found.pooled.extend(norm_of(gradient["pooled"]).tolist())
        found.values.extend(value.tolist())


def _encoder(name: str, table: TokenTable, significance: npt.NDArray[np.float64]) -> EncoderSignificance:
    tokens = [
        TokenScore(token.position, token.text, token.kind, token.word, float(value))
        for token, value in zip(table.tokens, significance, strict=True)
    ]

    def joined(chosen: list[TokenScore]) -> float:
        return float(np.sqrt(sum(token.significance**2 for token in chosen)))

    words = [
        WordScore(index, text, joined([t for t in tokens if t.word == index])) for index, text in enumerate(table.words)
    ]
    apart = {kind: joined([t for t in tokens if t.kind == kind]) for kind in ("start", "end", "padding")}
    return EncoderSignificance(name, tokens, words, apart["start"], apart["end"], apart["padding"])


def _over_encoders(encoders: list[EncoderSignificance]) -> list[WordScore]:
    """A word over all encoders that split the prompt into the same words; else the first encoder's."""
    texts = [word.text for word in encoders[0].words]
    alike = [e for e in encoders if [word.text for word in e.words] == texts]
    return [
        WordScore(i, text, float(np.sqrt(sum(e.words[i].significance ** 2 for e in alike))))
        for i, text in enumerate(texts)
    ]
