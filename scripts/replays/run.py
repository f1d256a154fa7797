"""Runs the jobs of jobs.py on an earlier commit and on the working tree, and compares all that they wrote."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from scripts.replays.comparison import report
from scripts.replays.jobs import JOBS, RESUMED

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = ROOT / ".cache" / "replay"
JOBS_FILE: Final = ROOT / "scripts" / "replays" / "jobs.py"


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
        wrong += report(job, CACHE / "runs" / "before" / job, CACHE / "runs" / "now" / job)
    # A run that the other side began ends as the one that it ended itself.
    for job in RESUMED:
        folder = CACHE / "runs" / "now" / f"{job} resumed"
        shutil.copytree(CACHE / "runs" / "before" / f"{job}", folder)
        _run(ROOT, f"{job}+", folder)
        _run(before, f"{job}+", CACHE / "runs" / "before" / job)
        wrong += report(f"{job}, resumed", CACHE / "runs" / "before" / job, folder)
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
        # By its path, and -P: the jobs are this tree's, and all that they import is the other's.
        command = [sys.executable, "-P", str(JOBS_FILE), job]
        done = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.exit(f"{job} failed in {tree}:\n{log.read_text()[-3000:]}")


if __name__ == "__main__":
    sys.exit(main())
