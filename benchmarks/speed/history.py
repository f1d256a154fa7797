"""How much memory and time the filter's history of many groups takes; a part of scripts/bench speed."""

from __future__ import annotations

import hashlib
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memsieve.filtering.config import FilterConfig
from memsieve.filtering.evidence.held_out import HeldOutPairs
from memsieve.filtering.evidence.sharing import top_groups
from memsieve.filtering.evidence.table import EvidenceTable
from memsieve.filtering.exchange import Exchange
from memsieve.filtering.rules import EvidenceRule, WindowEnd

__all__ = ["history_of", "peak_resident"]

PART = 100_000


def history_of(groups: int) -> dict[str, Any]:
    """Resident bytes of a history of ``groups`` groups, filled as a run fills it, and the seconds of what is done to
    all of it: a look, the most suspected, a checkpoint written and read. Call it in a process of its own: memory is
    what the process has more than before."""
    before, started = _resident(), time.perf_counter()
    table = EvidenceTable(half_life=8.0)
    rng = np.random.default_rng(0)
    for start in range(0, groups, PART):
        names = [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(start, min(start + PART, groups))]
        table.observe(names, rng.normal(size=len(names)), rng.random(len(names)), step=start // PART, sweep=1)
    del names
    found: dict[str, Any] = {"groups": groups, "seconds_to_fill": time.perf_counter() - started}
    found["bytes_per_group"] = (_resident() - before) / groups
    found["bytes_per_group_of_arrays"] = (
        table.names.nbytes + sum(column.nbytes for column in table.columns.values())
    ) / groups
    held_out = _held_out(rng)
    rule = EvidenceRule(held_out.config, held_out)

    def window(swept: bool, rows: int = 0) -> WindowEnd:
        measured = rng.integers(0, groups, rows)
        return WindowEnd(table, measured, held_out, Exchange(), swept, groups, 1)

    found["seconds_to_look"] = _seconds(lambda: rule.test_and_condemn(window(swept=True)))
    found["seconds_to_look_again"] = _seconds(lambda: rule.test_and_condemn(window(swept=True)))
    found["milliseconds_to_compare_256"] = 1e3 * _seconds(lambda: rule.test_and_condemn(window(False, 256)))
    found["seconds_to_find_the_top_12"] = _seconds(lambda: top_groups(table, Exchange(), 12))
    names = [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(0, groups, max(groups // 10_000, 1))]
    found["microseconds_to_find_a_group"] = 1e6 * _seconds(lambda: [table.row(name) for name in names]) / len(names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.pt"
        found["seconds_to_save"] = _seconds(lambda: torch.save(table.state_dict(), path))
        found["checkpoint_bytes_per_group"] = path.stat().st_size / groups
        again = EvidenceTable(half_life=8.0)
        found["seconds_to_load"] = _seconds(lambda: again.load_state_dict(torch.load(path, weights_only=True)))
    same = all(np.array_equal(table[name], again[name], equal_nan=True) for name in table.columns)
    if not same or [again.row(name) for name in names] != [table.row(name) for name in names]:
        raise RuntimeError("the history read back is not the one that was written")
    found["peak_bytes_per_group"] = peak_resident() / groups
    return found


def _held_out(rng: np.random.Generator) -> HeldOutPairs:
    """128 held-out groups after four sweeps."""
    held_out = HeldOutPairs(FilterConfig())
    names = [str(i) for i in range(128)]
    for step in range(5):
        held_out.observe(names, rng.normal(size=len(names)), step)
    return held_out


def peak_resident() -> int:
    """Largest resident size of this process, bytes. Not ``ru_maxrss``, which a new process inherits from its parent."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
