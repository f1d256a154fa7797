"""One job of the replay, in the working directory, with the code of the tree that MEMSIEVE_TREE names.

Only what holds in every layout is used: the commands, and what ``memsieve`` itself exports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml

INPUTS: Final = Path(__file__).resolve().parents[2] / ".cache" / "replay" / "runs" / "inputs"
TREE: Final = Path(os.environ.get("MEMSIEVE_TREE", "."))
NESTED: Final = (TREE / "memsieve" / "filtering").exists()
"""Whether all packages are parts of ``memsieve``."""

STEPS: Final = 20
RUNS: Final[dict[str, tuple[int, dict[str, Any]]]] = {
    "train": (1, {"filter": {"record": ["magnitude", "loss_gap"]}, "train": {"caption_dropout": 0.1}}),
    "reweight": (1, {"filter": {"policy": "reweight"}, "train": {"accumulation": 2}}),
    "paper": (1, {"filter": {"signals": ["magnitude"], "rule": "threshold", "threshold": 0.1}}),
    "robust": (1, {"filter": {"signals": ["magnitude"], "rule": "z_score", "threshold": 0.5}}),
    "sieve": (1, {"filter": {"signals": ["loss"], "false_drop_rate": 0.98, "apply": "sieve", "score_budget": 1.0,
                             "record": []}, "optimizer": {"lr": 1e-3}}),
    "lora": (1, {"model": {"lora": {"rank": 2}}}),
    "two ranks": (2, {"filter": {"record": ["magnitude"]}, "train": {"batch_size": 4}}),
}  # fmt: skip
"""Ranks and settings of the training jobs."""
RESUMED: Final = ("train", "sieve")
BEFORE: Final = {
    "threshold": ("fixed", "visit", "kept"), "z_score": ("robust", "visit", "eligible"),
    "rank": ("conformal", "visit", "eligible"),
}  # fmt: skip
JOBS: Final = ("stream", *RUNS, "audit", "detect")


def part(name: str) -> Any:
    """A module by its name in the present layout."""
    return import_module(f"memsieve.{name}" if NESTED else name)


def command(*words: str) -> None:
    """The ``memsieve`` command."""
    code = "import sys; from memsieve.cli import main; sys.argv[0] = 'memsieve'; main()"
    subprocess.run([sys.executable, "-c", code, *words], check=True)


def in_this_trees_words(section: dict[str, Any]) -> dict[str, Any]:
    """``section`` as the tree names it: before ``filter.rule``, three settings said what it says."""
    if "rule" not in section or "rule" in part("filtering.config").FilterConfig.model_fields:
        return section
    return {name: value for name, value in section.items() if name != "rule"} | dict(
        zip(("calibrator", "decide", "normalize"), BEFORE[section["rule"]], strict=True)
    )


def inputs() -> None:
    """A tiny model, shards with planted copies, held-out pairs and prompts, the same for both sides."""
    from tests.train.conftest import save_tiny_model, write_shards

    save_tiny_model(INPUTS / "model")
    write_shards(INPUTS / "train", 20, copies=12)
    write_shards(INPUTS / "held_out", 24, first=1000)
    (INPUTS / "prompts.txt").write_text("\n".join(f"pair {n}" for n in range(12)) + "\n")
    (INPUTS / "ordinary.txt").write_text("\n".join(f"pair {n}" for n in range(2000, 2040)) + "\n")


def train(job: str, steps: int) -> None:
    """A run of ``steps``, begun or resumed."""
    ranks, sections = RUNS[job]
    raw: dict[str, Any] = {
        "output": "run",
        "model": {"path": str(INPUTS / "model")},
        "data": {"path": str(INPUTS / "train"), "held_out_path": str(INPUTS / "held_out"), "resolution": 16,
                 "shuffle_buffer": 16, "streams": 4},
        "filter": {"false_drop_rate": 0.9, "held_out_per_window": 24, "spare_above": None,
                   "max_drop_fraction": 1.0, "ledger_kept": True},
        "train": {"steps": steps, "batch_size": 8, "seed": 3, "threads": 1, "timeout": 120},
        "optimizer": {"lr": 1e-2},
        "validation": {"held_out_pairs": 8, "held_out_draws": 1, "every": 10},
        "checkpoint": {"every": 0, "final": True, "export": True},
    }  # fmt: skip
    for name, values in sections.items():
        raw[name] = {**raw.get(name, {}), **values}
    raw["filter"] = in_this_trees_words(raw["filter"])
    Path("config.yaml").write_text(yaml.safe_dump(raw))
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    subprocess.run([*launcher, "-m", "memsieve.train" if NESTED else "train", "config.yaml"], check=True)
    summary = json.loads(Path("run/summary.json").read_text())
    if not summary["dropped"] and not summary["condemned_groups"]:
        sys.exit(f"{job}: nobody was dropped or condemned, so that nothing is shown")


OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "evidence": {"signals": ["loss"], "false_drop_rate": 0.1, "spare_above": None},
    "spared": {"signals": ["loss", "reference_ratio"], "false_drop_rate": 0.1},
    "reweighted": {"signals": ["loss"], "false_drop_rate": 0.1, "policy": "reweight"},
    "observed": {"signals": ["loss"], "false_drop_rate": 0.1, "policy": "observe"},
    "capped": {"signals": ["loss"], "policy": "cap", "max_exposures": 5},
    "ranked": {"signals": ["loss"], "false_drop_rate": 0.1, "rule": "rank"},
    "robust": {"signals": ["loss"], "rule": "z_score", "threshold": 2.0},
    "fixed": {"signals": ["magnitude"], "rule": "threshold", "threshold": 1.3},
    "sieved": {"signals": ["loss"], "false_drop_rate": 0.1, "apply": "sieve", "score_budget": 1.0},
}  # fmt: skip


class Drawn:
    """What a network would have given: the six pairs that come most often read ever higher."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(7)
        self.pairs, self.held_out = [f"p{i}" for i in range(60)], [f"h{i}" for i in range(40)]
        weights = np.r_[np.full(6, 6.0), np.ones(54)]
        self.weights = weights / weights.sum()
        self.met = dict.fromkeys(self.pairs, 0)

    def names(self) -> list[str]:
        """Who comes in the next window."""
        return [self.pairs[i] for i in self.rng.choice(60, 16, p=self.weights)]

    def measured(self, groups: list[str], drawn: Any = None) -> Any:
        """One visit of each; ``drawn`` are the rows that are measured, all without it."""
        lift = np.array([min(2.0, self.met.get(g, 0) / 30) * (g in self.pairs[:6]) for g in groups])
        values = self.rng.normal(size=len(groups)) + lift
        timesteps = self.rng.integers(0, 1000, len(groups))
        usable = self.rng.random(len(groups)) > 0.1
        signals = {
            "loss": torch.from_numpy(np.exp(-0.3 * values)), "magnitude": torch.from_numpy(np.exp(0.3 * values)),
            "reference_ratio": torch.from_numpy(1.0 - np.exp(-0.3 * values)),
        }  # fmt: skip
        usable = usable if drawn is None else usable & drawn
        return part("filtering").Measurement(signals, timesteps.astype(np.int64), usable, drawn)


def stream() -> None:
    """Windows of drawn signals through the filter, under each of ``OPTIONS``."""
    memsieve = import_module("memsieve")
    for name, options in OPTIONS.items():
        source, sieve, said = Drawn(), memsieve.MemorizationFilter(record=[], **in_this_trees_words(options)), []
        for window in range(150):
            names = source.names()
            visits = [memsieve.Visit(n, group=n, epoch=window, offset=i) for i, n in enumerate(names)]
            plan = sieve.begin_window(visits, [True] * 16, 8)
            drawn = None if plan is None else np.array(plan.visits) >= 0
            decision = sieve.decide(visits, source.measured(names, drawn))
            for pair in names:
                source.met[pair] += 1
            turn = [source.held_out[(4 * window + i) % 40] for i in range(4)]
            sieve.calibrate(turn, source.measured(turn))
            swept = sieve.end_window()
            said.append({
                "weights": decision.weights.tolist(), "bar": sieve.evidence_bar, "swept": swept,
                "verdicts": [[str(v.action), str(v.reason), v.score, v.p_value, v.evidence, v.threshold]
                             for v in decision.verdicts],
                "condemned": dict(sieve.condemned),
            })  # fmt: skip
        Path(f"{name}.json").write_text(json.dumps(said))
        torch.save(sieve.state_dict(), f"{name}.pt")
        dropped = sum(weight < 1 for window in said for weight in window["weights"])
        if options.get("policy") != "observe" and dropped == 0:
            sys.exit(f"{name}: nobody was dropped, so that nothing is shown")


def main() -> None:
    """``JOB``, or ``JOB+`` to go on with a run."""
    job = sys.argv[1]
    if job == "inputs":
        inputs()
    elif job == "stream":
        stream()
    elif job == "audit":
        words = ["--shards", str(INPUTS / "train"), "--model", str(INPUTS / "model"), "--draws", "3"]
        command("audit", "score", *words, "--resolution", "16", "--out", "audit")
        command("audit", "select", "audit", "--drop-fraction", "0.2", "--out", "keep.parquet")
    elif job == "detect":
        words = ["--model", str(INPUTS / "model"), "--prompts", str(INPUTS / "prompts.txt")]
        ordinary = ["--ordinary", str(INPUTS / "ordinary.txt"), "--false-positive-rate", "0.1"]
        command("detect", *words, *ordinary, "--resolution", "16", "--steps", "3", "--per-step", "--out", "detected")
    else:
        train(job.removesuffix("+"), STEPS + 10 if job.endswith("+") else STEPS)


if __name__ == "__main__":
    main()
