"""Which code a measurement is of: numbers made by other decisions are no result of this filter.

The modules that decide are named here one by one, so that one that moves is missed and not silently left out.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.common import ROOT

__all__ = ["AT_THE_LOADER", "BY_DRAWINGS", "IN_EVERY_RUN", "THE_FILTER", "code_of_decisions"]

THE_FILTER: Final = (
    "filtering/filter.py",
    "filtering/gone.py",
    "filtering/config.py",
    "filtering/settings.py",
    "filtering/types.py",
    "filtering/signals.py",
    "filtering/policy.py",
    "filtering/schedule.py",
    "filtering/exchange.py",
    "filtering/conformal.py",
    "filtering/statistics.py",
    "filtering/rules/__init__.py",
    "filtering/rules/base.py",
    "filtering/rules/evidence.py",
    "filtering/rules/recall.py",
    "filtering/rules/threshold.py",
    "filtering/evidence/calibration.py",
    "filtering/evidence/held_out.py",
    "filtering/evidence/history.py",
    "filtering/evidence/key_index.py",
    "filtering/evidence/null.py",
    "filtering/evidence/own_bars.py",
    "filtering/evidence/recall.py",
    "filtering/evidence/sharing.py",
    "filtering/evidence/state.py",
    "filtering/evidence/table.py",
    "filtering/evidence/uncalibrated.py",
    "filtering/evidence/window.py",
)
"""From measured signals to weights."""
IN_EVERY_RUN: Final = (
    "filtering/audit/looked_up.py",
    "filtering/data/draws.py",
    "train/batch.py",
    "train/draw_settings.py",
    "train/forward.py",
    "train/held_out.py",
    "train/loop.py",
    "train/measure.py",
    "train/step.py",
    "train/visits.py",
)
"""What is drawn and measured in training, and what becomes of the weights."""
AT_THE_LOADER: Final = (
    "filtering/data/loader.py",
    "filtering/data/loader_sieve.py",
    "filtering/data/archives.py",
    "filtering/data/bucket_counts.py",
    "filtering/data/buckets.py",
    "filtering/data/config.py",
    "filtering/data/dealing.py",
    "filtering/data/decode.py",
    "filtering/data/fields.py",
    "filtering/data/folder/entries.py",
    "filtering/data/folder/metadata.py",
    "filtering/data/folder/source.py",
    "filtering/data/folder/walk.py",
    "filtering/data/group_table.py",
    "filtering/data/held_out.py",
    "filtering/data/hf.py",
    "filtering/data/intake.py",
    "filtering/data/keep_list.py",
    "filtering/data/kept_source.py",
    "filtering/data/mark.py",
    "filtering/data/png_text.py",
    "filtering/data/pool.py",
    "filtering/data/repeats.py",
    "filtering/data/rows.py",
    "filtering/data/shard_paths.py",
    "filtering/data/shard_samples.py",
    "filtering/data/shards.py",
    "filtering/data/shuffle.py",
    "filtering/data/sources.py",
    "filtering/data/streams.py",
    "filtering/data/turns.py",
    "filtering/data/workers.py",
    "train/sieve.py",
)
"""What decides which rows are read, where pairs are skipped before they are decoded."""
BY_DRAWINGS: Final = (
    "filtering/data/small.py",
    "inference/copies/recall.py",
    "train/advice.py",
    "train/export.py",
    "train/look.py",
    "train/overfits.py",
    "train/prior.py",
    "train/recall.py",
)
"""What is asked of a model in training, and which of its models is advised."""


@cache
def code_of_decisions(at_the_loader: bool, by_drawings: bool = False, *, root: Path = ROOT) -> str:
    """A digest of the modules that decide, comments and docstrings apart: what they said earlier is no result now.

    Args:
        at_the_loader: whether the method skips pairs at the loader.
        by_drawings: whether it asks the model which pairs come back.
        root: of the repository.

    Raises:
        FileNotFoundError: a module that is named here is not there.
    """
    digest = hashlib.sha256()
    more = (AT_THE_LOADER if at_the_loader else ()) + (BY_DRAWINGS if by_drawings else ())
    for name in sorted(THE_FILTER + IN_EVERY_RUN + more):
        tree = ast.parse((root / name).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [part for part in body if not _is_text(part)]  # type: ignore[attr-defined]
        digest.update(f"{name} {ast.dump(tree)}".encode())
    return digest.hexdigest()[:16]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
