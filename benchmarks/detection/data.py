"""A model, the pairs planted in its data and the judge of copies, for the benchmarks of detection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.probe import judge_for, prompts_of
from memsieve.inference.guided import GuidedModel
from memsieve.inference.opened import open_model

__all__ = ["Bench"]


class Bench:
    """The model (beside its ``base``, where that is named), the pairs and the judge, each opened once and when first
    needed."""

    def __init__(self, model: Path, data: Path, ordinary: int, base: str | None = None) -> None:
        self.opened: GuidedModel = open_model(model, base=base)
        self.data = data
        self.planted, _ = prompts_of(data)
        if not self.planted:
            raise ValueError(
                f"--data: '{data}' has no planted pairs; build it with --plant, for example --plant 8x1000"
            )
        self.base = {row["caption"]: row["base"] for row in pq.read_table(data / "truth.parquet").to_pylist()}
        self.captions = {split: self._captions(split, ordinary) for split in ("held_out", "train")}
        self._judge: CopyJudge | None = None

    @property
    def judge(self) -> CopyJudge:
        if self._judge is None:
            self._judge = judge_for(self.data)
        return self._judge

    def _captions(self, split: str, count: int) -> list[str]:
        """Ordinary captions of a split, drawn by a fixed seed; none of a planted pair's."""
        rows = pq.read_table(self.data / "truth.parquet").to_pylist()
        mine = {p.caption for p in self.planted}
        found = sorted({r["caption"] for r in rows if r["split"] == split and r["repeats"] <= 1} - mine)
        order = np.random.default_rng(0).permutation(len(found))[:count]
        return [found[i] for i in order]
