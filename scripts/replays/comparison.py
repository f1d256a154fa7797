"""Whether two runs wrote the same, bit by bit, all that tells the time apart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

__all__ = ["differs", "report"]

_OF_TIME: Final = re.compile(
    r"seconds|_time$|^times?$|throughput|samples_per|^created|^written|version|path|_s$|^output|^config$"
)
"""What of a name says that its value is no result; nor is what settings are called in a checkpoint."""


def report(job: str, before: Path, now: Path) -> int:
    """Print what differs between two folders; how many files do, 1 where there is none to compare."""
    files, wrong = 0, []
    for relative in sorted({f.relative_to(side) for side in (before, now) for f in side.rglob("*") if f.is_file()}):
        said = differs(before / relative, now / relative)
        files += said is not None
        if said:
            wrong.append(f"{relative}: {said}")
    if files == 0:
        wrong.append("nothing was written that could be compared")
    print(f"{job}: {files} files, {'equal' if not wrong else 'DIFFERENT'}")
    for line in wrong[:20]:
        print(f"  {line}")
    return len(wrong)


def differs(before: Path, now: Path) -> str | None:
    """None where the file is no result, "" where it is the same, or what differs first."""
    kind = before.suffix
    if kind not in (".safetensors", ".pt", ".parquet", ".jsonl", ".json", ".pkl"):
        return None
    if not before.is_file() or not now.is_file():
        return "only one side wrote it"
    one, two = (dict(_values(_read(path), "")) for path in (before, now))
    for name in [*one, *(two.keys() - one.keys())]:
        if name not in one or name not in two:
            return f"{name}: only one side has it"
        if not _same(one[name], two[name]):
            return f"{name}: {str(one[name])[:80]} and {str(two[name])[:80]}"
    return ""


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix in (".pt", ".pkl"):
        return torch.load(path, weights_only=False)
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pydict()
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def _values(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every leaf by its place, those apart that say when and how fast."""
    last = name.rsplit("/", 1)[-1]
    if _OF_TIME.search(last):
        return
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _values(part, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for i, part in enumerate(value):
            yield from _values(part, f"{name}/{i}")
    else:
        yield name, value


def _same(one: Any, two: Any) -> bool:
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, two))
    if isinstance(one, torch.Tensor):
        shapes = (one.shape, one.dtype) == (two.shape, two.dtype)
        return shapes and one.contiguous().numpy().tobytes() == two.contiguous().numpy().tobytes()
    return bool(one == two or (one != one and two != two))
