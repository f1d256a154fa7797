"""Runs the jobs of replay_jobs.py on an earlier commit and on the working tree, and compares all that they wrote."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
import torch
from replay_jobs import JOBS, RESUMED
from safetensors.torch import load_file

ROOT: Final = Path(__file__).resolve().parents[1]
CACHE: Final = ROOT / ".cache" / "replay"
_OF_TIME: Final = re.compile(
    r"seconds|_time$|^times?$|throughput|samples_per|^created|^written|version|path|_s$|^output"
)
"""What of a name says that its value is no result."""


def main() -> int:
    """Exit code 1 where anything differs."""
    commit = _git("rev-parse", "--short", sys.argv[1] if len(sys.argv) > 1 else "HEAD")
    shutil.rmtree(CACHE / "runs", ignore_errors=True)
    before = CACHE / f"tree-{commit}"
    if not before.is_dir():
        _git("worktree", "prune")
        _git("worktree", "add", "--detach", str(before), commit)
    sides = {"before": before, "now": ROOT}
    _run(ROOT, "inputs", CACHE / "runs")
    wrong = 0
    for job in JOBS:
        for name, tree in sides.items():
            _run(tree, job, CACHE / "runs" / name / job)
        wrong += _report(job, CACHE / "runs" / "before" / job, CACHE / "runs" / "now" / job)
    # A run that the other side began ends as the one that it ended itself.
    for job in RESUMED:
        folder = CACHE / "runs" / "now" / f"{job} resumed"
        shutil.copytree(CACHE / "runs" / "before" / f"{job}", folder)
        _run(ROOT, f"{job}+", folder)
        _run(before, f"{job}+", CACHE / "runs" / "before" / job)
        wrong += _report(f"{job}, resumed", CACHE / "runs" / "before" / job, folder)
    print(f"{'DIFFERENT' if wrong else 'bit-equal'}: {commit} and the working tree")
    return int(wrong > 0)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"git {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _run(tree: Path, job: str, folder: Path) -> None:
    """One job with the code of ``tree``; what it prints is kept beside."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "", "MEMSIEVE_TREE": str(tree),
    }  # fmt: skip
    log = folder.parent / f"{folder.name}.log"
    with log.open("a") as output:
        command = [sys.executable, str(ROOT / "scripts" / "replay_jobs.py"), job]
        done = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.exit(f"{job} failed in {tree}:\n{log.read_text()[-3000:]}")


def _report(job: str, before: Path, now: Path) -> int:
    files, wrong = 0, []
    for relative in sorted({f.relative_to(side) for side in (before, now) for f in side.rglob("*") if f.is_file()}):
        said = _differs(before / relative, now / relative)
        files += said is not None
        if said:
            wrong.append(f"{relative}: {said}")
    if files == 0:
        wrong.append("nothing was written that could be compared")
    print(f"{job}: {files} files, {'equal' if not wrong else 'DIFFERENT'}")
    for line in wrong[:20]:
        print(f"  {line}")
    return len(wrong)


def _differs(before: Path, now: Path) -> str | None:
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


if __name__ == "__main__":
    sys.exit(main())
