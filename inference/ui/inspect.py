"""What the web page shows of a prompt, without the page: verdict, score, words, images, nearest pairs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from torch import Tensor

from memsieve.filtering.data.decode import to_picture
from memsieve.inference.charts import heat_colour
from memsieve.inference.copies.index import TrainingIndex
from memsieve.inference.copies.pixels import load_pixels
from memsieve.inference.copies.verify import picture_uri, square, verify_images
from memsieve.inference.detect.detect import measure_ordinary
from memsieve.inference.detect.detectors import DETECTORS, DetectSettings
from memsieve.inference.detect.measure import measure_prompts
from memsieve.inference.explain.explain import explain
from memsieve.inference.generate import sampling_scheduler
from memsieve.inference.guided import GuidedModel
from memsieve.inference.minimize.draw import draw
from memsieve.inference.minimize.minimize import TARGET_QUANTILE, Minimized, minimize
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.progress import progress_bar
from memsieve.inference.templates import render
from memsieve.inference.ui.side import Inspection, Side
from memsieve.inference.ui.verdict import Drawn, judged

__all__ = [
    "MAX_CHARACTERS",
    "MAX_IMAGES",
    "MAX_STEPS",
    "MAX_UPDATES",
    "Inspector",
    "Report",
    "pictures",
]

MAX_CHARACTERS: Final = 2000
MAX_IMAGES: Final = 4
MAX_STEPS: Final = 100
MAX_UPDATES: Final = 100
Report = Callable[[float, str], None]
"""(share done, what is being done) -> None."""


class Inspector:
    """One model with its ordinary prompts, measured once.

    Args:
        ordinary: prompts known not to be memorised.
        index: training images to compare with, as ``build_index`` wrote it.

    Raises:
        ValueError: a setting does not fit, or there are too few ordinary prompts for the rate.
    """

    def __init__(
        self,
        model: GuidedModel,
        ordinary: Sequence[str],
        *,
        settings: DetectSettings | None = None,
        false_positive_rate: float = 0.01,
        index: Path | None = None,
        batch: int = 16,
        progress: bool = True,
    ) -> None:
        self.model, self.rate, self.known = model, false_positive_rate, list(dict.fromkeys(ordinary))
        self.measure = "magnitude" if model.base is None else "drift"
        self.settings = replace(settings or DetectSettings(), detector=self.measure, early_exit=False)
        self.index = None if index is None else TrainingIndex(index)
        with progress_bar(progress) as bar:
            measured, self.ordinary = measure_ordinary(model, ordinary, self.settings, false_positive_rate, batch, bar)
        first = [m.path[:, 0].mean() for m in measured]
        self.median, self.target = float(np.median(first)), float(np.quantile(first, TARGET_QUANTILE))

    def inspect(self, prompt: str, noise_of: str | None = None) -> Inspection:
        """Score and words of ``prompt``, measured with the noise of ``noise_of`` where another wording is compared.

        Raises:
            ValueError: the prompt is empty or too long.
        """
        prompt = checked(prompt)
        (measured,) = measure_prompts(self.model, [prompt], self.settings, noise_of=noise_of)
        score = DETECTORS[self.measure].component_values(measured)[self.measure]
        p = float(self.ordinary.p_values(np.asarray([score]))[0])
        explained = explain(self.model, prompt, settings=self.settings, at_steps=[0])
        return Inspection(prompt, score, p, p <= self.rate + 1e-12, explained.words, explained.cut)

    def draw(self, prompt: str, images: float, steps: float, report: Report, noise_of: str | None = None) -> Tensor:
        """Images [n, 3, H, W] in [-1, 1] from the noise that the score was measured with."""
        prompt, count, steps = checked(prompt), limited("images", images, MAX_IMAGES), limited("steps", steps)
        noise = self.model.noise([noise_of or prompt] * count, range(count), self.settings.seed)
        pipe = self.model.pipe

        def after(_: Any, step: int, __: Any, values: dict[str, Any]) -> dict[str, Any]:
            report((step + 1) / steps, f"drawing, step {step + 1} of {steps}")
            return values

        own, pipe.scheduler = pipe.scheduler, sampling_scheduler(pipe, self.model.scheduler_name)
        try:
            output = pipe(
                **self._arguments(prompt, noise), num_inference_steps=steps, output_type="pt",
                **_callback(pipe, after),
            )  # fmt: skip
        finally:
            pipe.scheduler = own
        return output.images.float().cpu().clamp(0, 1) * 2 - 1  # type: ignore[no-any-return]

    def _arguments(self, prompt: str, noise: Tensor) -> dict[str, Any]:
        model, count = self.model, len(noise)
        cond = model.encode([prompt]).expand(count).to(dtype=model.dtype)
        uncond = model.unconditional(count).to(dtype=model.dtype)
        side, latents = model.pixels(noise), noise.to(model.dtype)
        negative = None if model.denoiser.distilled is not None else uncond
        arguments = model.denoiser.call_arguments(cond, negative, self.settings.guidance_scale, latents)
        return {**arguments, "height": side, "width": side}

    def minimise(
        self, prompt: str, images: float, steps: float, updates: float, report: Report
    ) -> tuple[Minimized, Tensor, Tensor]:
        """The result with the images before and after; the target is low among what ordinary prompts come to."""
        prompt, count, last = checked(prompt), limited("images", images, MAX_IMAGES), limited("steps", steps)
        most = limited("updates", updates, MAX_UPDATES)
        settings = replace(self.settings, steps=1, schedule_steps=last)
        report(0.0, "minimising")
        how = MinimizeSettings(iterations=most)
        result = minimize(self.model, prompt, self.target, images=count, how=how, settings=settings)
        report(0.3, "drawing both")
        before, after = draw(self.model, result, settings)
        return result, before, after

    def nearest(self, images: Tensor, what: str) -> tuple[Drawn, str]:
        """How many of ``images`` copy a training image, and the nearest ones as HTML, empty without an index; ``what``
        heads it."""
        if self.index is None:
            return Drawn(len(images), None), ""
        small = list(square(images, self.index.side))
        # One in twenty is to be called a copy by chance of all that is drawn, not of each image.
        finest = 0.0 if self.index.null is None else 1 / (len(self.index.null) + 1)
        matches = verify_images(
            self.index, [f"image {i + 1}" for i in range(len(small))], small, k=3,
            alpha=max(0.05 / len(small), finest),
        )  # fmt: skip
        rows = []
        for match, pixels in zip(matches, small, strict=True):
            pairs = [
                (n, picture_uri(load_pixels(self.index.image_bytes(n), self.index.side))) for n in match.neighbours
            ]
            rows.append({"match": match, "picture": picture_uri(pixels), "pairs": pairs})
        decided = any(match.copy is not None for match in matches)
        copies = sum(bool(match.copy) for match in matches) if decided else None
        return Drawn(len(small), copies), render("ui_nearest.html", rows=rows, decided=decided, what=what)

    def card(self, side: Side, beside: float = 0.0) -> str:
        """Verdict, score and words as HTML, all text escaped; ``beside`` is a score that the bar's scale shall also
        hold. Empty where nothing was measured."""
        found = side.found
        if found is None:
            return ""
        threshold = self.ordinary.threshold(self.rate)
        top = max((word.significance for word in found.words), default=0.0) or 1.0
        scale = max(found.score, beside, threshold, float(self.ordinary.ordinary_scores.max())) * 1.05
        return render(
            "ui_score.html", found=found, rate=self.rate, ordinary=len(self.ordinary.ordinary_scores),
            verdict=judged(found.flagged, self.model.base is not None, side.drawn), measure=self.measure,
            threshold=threshold, median=self.median,
            words=[(word.text, word.significance, heat_colour(word.significance / top)) for word in found.words],
            places={
                name: round(100 * value / scale, 2)
                for name, value in (("score", found.score), ("threshold", threshold), ("median", self.median))
            },
        )  # fmt: skip

    def minimised_card(self, result: Minimized, drawn: Drawn) -> str:
        """What became of a minimised prompt, as HTML: each image's number before and after, and what still copies."""
        rows = zip(result.trace[0], result.value, result.met, strict=True)
        return render("ui_minimised.html", measure=result.measure, target=result.targets[0], rows=list(rows),
                      drawn=drawn, tone="bad" if drawn.copies else "calm")  # fmt: skip

    def examples(self, count: int = 5) -> list[str]:
        """Prompts to begin with: the training captions that stand most often in the index, and ordinary ones."""
        repeated = [] if self.index is None else self.index.most_repeated(count - 2)
        chosen = [caption for caption in repeated if 0 < len(caption.strip()) <= MAX_CHARACTERS]
        return list(dict.fromkeys([*chosen, *self.known[: count - len(chosen)]]))


def _callback(pipe: Any, after: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """``after`` as the argument that the pipeline knows: PixArt's still has the older one."""
    if "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:
        return {"callback_on_step_end": after}
    return {"callback": lambda step, timestep, latents: after(pipe, step, timestep, {"latents": latents})}


def checked(prompt: str) -> str:
    """The prompt, stripped.

    Raises:
        ValueError: it is empty, or longer than the page takes.
    """
    prompt = prompt.strip()
    if not prompt:
        raise ValueError("the prompt is empty: type some text")
    if len(prompt) > MAX_CHARACTERS:
        raise ValueError(f"the prompt has {len(prompt)} characters, over {MAX_CHARACTERS}: shorten it")
    return prompt


def limited(name: str, value: float, most: int = MAX_STEPS) -> int:
    """A whole number from 1 to ``most``: the page's sliders end there, but a request need not come from the page.

    Raises:
        ValueError: it is not.
    """
    if not 1 <= value <= most or int(value) != value:
        raise ValueError(f"{name} = {value:g}: must be a whole number from 1 to {most}")
    return int(value)


def pictures(images: Tensor, least: int = 192) -> list[Image.Image]:
    """Images [n, 3, H, W] in [-1, 1]; small ones are enlarged to ``least`` pixels."""
    found = []
    for pixels in images:
        image = to_picture(pixels)
        factor = max(1, -(-least // image.width))
        found.append(image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS))
    return found
