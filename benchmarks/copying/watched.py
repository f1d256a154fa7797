"""A run whose drawings are judged while it trains: when is ``copies`` said, and when does a judge see the first one?

The judge is not what the run asks itself: other noise, all steps of the sampler, pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
from torch import Tensor

from benchmarks.copying.drawings import Drawing, Prompts, copies_of, small
from memsieve.filtering.config import FilterConfig
from memsieve.filtering.rules import RecallRule, WindowEnd
from memsieve.inference.copies.similarity import build_similarity
from memsieve.inference.generate import GenerateSettings, generate

__all__ = ["DRAWINGS", "LOOKS", "Watch", "WatchedRule", "first_copied", "first_said"]

LOOKS: Final = 20
"""Of a run, the base apart."""
DRAWINGS: Final = 8
"""Of each pair at each look."""
JUDGE: Final = "pixel_l2"


class WatchedRule(RecallRule):
    """Recall that looks every so often; ``watch.look`` is given once the session is there."""

    def __init__(self, config: FilterConfig, every: int) -> None:
        super().__init__(config)
        self.every = max(every, 1)
        self.look: Callable[[int, bool], None] | None = None

    def test_and_condemn(self, window: WindowEnd) -> None:
        """As ever; then the look."""
        super().test_and_condemn(window)
        if self.look is not None and window.step % self.every == 0:
            self.look(window.step, self.copies)


class Watch:
    """Draws the training pairs' captions and writes down which pairs are copied.

    Args:
        run: the run's folder; looks that are there are not taken anew.
        data: the stream's folder.
        prompts: pairs that are drawn.
        drawing: how.
        seed: of the drawings: no other seed of the run is it.
    """

    def __init__(self, run: Path, data: Path, prompts: Prompts, drawing: Drawing, seed: int) -> None:
        self.file, self.data, self.prompts = run / "watched.jsonl", data, prompts
        self.settings = GenerateSettings(
            steps=drawing.steps, batch=24, seed=seed + 7919, guidance_scale=drawing.guidance_scale, scheduler="ddim"
        )
        self.truth = pq.read_table(data / "truth.parquet").to_pylist()

    @property
    def looks(self) -> list[dict[str, Any]]:
        """Each with its step, whether ``copies`` was said by then, the share of copies, and the pairs copied."""
        if not self.file.is_file():
            return []
        return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]

    def look(self, pipe: Any, step: int, said: bool) -> None:
        """Judge the model as it is; once a step."""
        if any(look["step"] == step for look in self.looks):
            return
        images = generate(pipe, self.prompts.captions, DRAWINGS, self.settings, progress=False)
        found = self._copies(small(images).unflatten(0, (len(self.prompts), DRAWINGS)))
        copied = [pair for pair, its in zip(self.prompts.pairs, found, strict=True) if any(its)]
        share = sum(map(sum, found)) / (len(found) * DRAWINGS)
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, "said": said, "copies": round(share, 4), "copied": copied}) + "\n")

    def _copies(self, drawn: Tensor) -> list[list[int]]:
        return copies_of(build_similarity(JUDGE), drawn, self.prompts, self.data, self.truth)


def first_copied(looks: list[dict[str, Any]]) -> int | None:
    """The first look at which a pair is copied that the base does not copy; None where there is none."""
    base = {pair for look in looks if look["step"] == 0 for pair in look["copied"]}
    return next((look["step"] for look in looks if look["step"] and set(look["copied"]) - base), None)


def first_said(looks: list[dict[str, Any]]) -> int | None:
    """The first look by which ``copies`` was said."""
    return next((look["step"] for look in looks if look["said"]), None)
