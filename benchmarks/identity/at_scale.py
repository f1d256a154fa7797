"""Groups of a million embeddings, and tables of many rows: time and memory, each in a process of its own.

python -m benchmarks.identity.at_scale neighbours ROWS OUT.json
python -m benchmarks.identity.at_scale tables AUDIT ROWS OUT.json
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks.common import ROOT, machine, write_numbers
from memsieve.filtering.identity.leaders import Leaders, alike, joined_to_leaders

__all__ = ["in_own_process", "neighbours", "tables"]

WIDTH: Final = 512
THRESHOLD: Final = 0.75
COPIES: Final = 5
"""One row in so many is a near-duplicate of an earlier one."""
NEAR: Final = (0.8, 0.98)
"""Cosines of a near-duplicate to its original."""
SAMPLE: Final = 2_000
"""Rows whose leader is looked for among all leaders, by brute force."""
BLOCK: Final = 16_384
Rows = npt.NDArray[np.float16]


def embeddings(rows: int, seed: int = 0) -> Iterator[Rows]:
    """Synthetic embeddings of length 1, as unlike as random ones are, and near-duplicates among them."""
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        rng = np.random.default_rng([seed, start])
        block = rng.standard_normal((count, WIDTH), dtype=np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        copies = np.arange(COPIES - 1, count, COPIES)
        cosine = rng.uniform(*NEAR, len(copies)).astype(np.float32)[:, None]
        of = block[rng.integers(0, COPIES - 1, len(copies))]
        noise = block[copies] - (block[copies] * of).sum(axis=1, keepdims=True) * of
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        block[copies] = cosine * of + np.sqrt(1.0 - cosine**2) * noise
        yield block.astype(np.float16)


def neighbours(rows: int) -> dict[str, Any]:
    """Join ``rows`` embeddings: seconds, memory, and how many of those that brute force joins were joined."""
    leaders, began = Leaders("floats", THRESHOLD), time.monotonic()
    joined = joined_to_leaders(_told(rows), leaders)
    seconds = _seconds(began)
    led = joined.leaders == np.arange(rows)
    sample = np.sort(np.random.default_rng(1).choice(rows, min(SAMPLE, rows), replace=False))
    mine = np.concatenate(list(_picked(rows, sample)))
    best = np.full(len(sample), -np.inf)
    start = 0
    for block in embeddings(rows):
        numbers = start + np.flatnonzero(led[start : start + len(block)])
        likeness = alike(mine, block[numbers - start])
        # A leader that comes later was not there to be joined.
        best = np.maximum(best, np.where(numbers[None] < sample[:, None], likeness, -np.inf).max(axis=1, initial=-9))
        start += len(block)
    wanted = best >= THRESHOLD
    return {
        "rows": rows, "width": WIDTH, "threshold": THRESHOLD, "leaders": int(led.sum()),
        "joined": int((~led).sum()), "seconds": seconds, "sample": len(sample),
        "joined_by_brute_force": int(wanted.sum()),
        "recall": float(np.mean(~led[sample][wanted])) if wanted.any() else None,
        "peak_gb": round(_peak() / 1e9, 2), **machine(),
    }  # fmt: skip


def _told(rows: int) -> Iterator[Rows]:
    began, done = time.monotonic(), 0
    for block in embeddings(rows):
        yield block
        done += len(block)
        spent = time.monotonic() - began
        print(f"\r{done:,} of {rows:,}, {spent:.0f} s, {spent / done * (rows - done):.0f} s left", end="",
              file=sys.stderr, flush=True)  # fmt: skip
    print(file=sys.stderr)


def _picked(rows: int, sample: npt.NDArray[np.int64]) -> Iterator[Rows]:
    start = 0
    for block in embeddings(rows):
        inside = sample[(sample >= start) & (sample < start + len(block))]
        yield block[inside - start]
        start += len(block)


def tables(audit: Path, rows: int) -> dict[str, Any]:
    """``select``, groups by content and the report's summary of a synthetic audit of ``rows`` rows, made where it is
    not there: seconds and memory of each. What is done is kept beside the audit."""
    from tests.filtering.audit.large import write_large_audit

    if not (audit / "audit.json").is_file() or len(list((audit / "markers").glob("*.json"))) * 100_000 < rows:
        write_large_audit(audit, rows)
    kept = audit / "measured.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {"rows": rows, **machine()}
    for what in ("select", "groups", "report"):
        if what not in found:
            began = time.monotonic()
            command = [sys.executable, "-m", "tests.filtering.audit.large", str(audit), what]
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            found[what] = {"seconds": _seconds(began), "bytes": int(done.stdout.split()[-1])}
            write_numbers(kept, found)
    return found


def in_own_process(out: Path, *words: object) -> dict[str, Any]:
    """What ``main`` measures for ``words``, kept in ``out``: memory is that of the work alone."""
    if not out.is_file():
        command = [sys.executable, "-m", "benchmarks.identity.at_scale", *map(str, words), str(out)]
        subprocess.run(command, cwd=ROOT, check=True)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def _seconds(began: float) -> float | None:
    """How long it took; None where so much else ran beside it that this says nothing."""
    busy = os.getloadavg()[1] > (os.cpu_count() or 1) + 1
    return None if busy else round(time.monotonic() - began, 1)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """One measurement, written as JSON."""
    what, *words, out = sys.argv[1:]
    measure: Callable[[], dict[str, Any]] = {
        "neighbours": lambda: neighbours(int(words[0])),
        "tables": lambda: tables(Path(words[0]), int(words[1])),
    }[what]
    write_numbers(Path(out), measure())


if __name__ == "__main__":
    main()
