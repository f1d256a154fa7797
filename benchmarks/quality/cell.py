"""One cell of ``scripts/bench quality``: a method trained on the planted stream of one seed, and what came of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import CONFIGS, ROOT, machine, write_lines
from benchmarks.copying.decisions import decisions, thresholds
from benchmarks.copying.held_out import held_out_losses
from benchmarks.copying.rivals import LossBelowAverage, RandomDrop, Rival
from benchmarks.deciding import code_of_decisions
from benchmarks.quality.data import Spec, build
from benchmarks.quality.measure import copies
from benchmarks.quality.methods import METHODS, filter_of
from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.groups import group_audit
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.settings import load_settings
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up

__all__ = ["Cell", "Plan", "Protocol", "run_cell"]

AUDIT_DRAWS = 16
VALIDATION_SEED = 1000
"""Planted anew: where the paper's threshold is chosen."""
PAPER = {"paper": "best", "paper_five": "five"}
"""Methods by the paper's rule, and which of the thresholds found there they take."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """What all cells share; a cell's hash covers it."""

    model: str = "assets/tiny-sd"
    batch_size: int = 8
    lr: float = 2e-3
    warmup_steps: int = 40
    steps: int = 0
    """0: as many as the passes over the stream take."""
    passes_of_nothing: int = 8
    caption_dropout: float = 0.1
    streams: int = 8
    held_out_max: int = 128
    """Held-out pairs that calibrate; the held-out loss takes all."""
    held_out_per_window: int = 4
    held_out_draws: int = 4
    images: int = 4
    ordinary: int = 24
    sampling_steps: int = 12
    guidance_scale: float = 3.0


@dataclass(frozen=True, slots=True)
class Cell:
    """A method on a case and a seed."""

    method: str
    case: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}-{self.case}-seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Where cells work and where their results lie."""

    work: Path
    results: Path
    spec: Spec = field(default_factory=Spec)
    protocol: Protocol = field(default_factory=Protocol)
    keep_ledgers: Path | None = None
    """Where the ledger of the unfiltered run is kept, every signal at every visit."""

    def file(self, cell: Cell) -> Path:
        return self.results / f"{cell.name}.json"

    def needs(self, cell: Cell) -> Cell | None:
        """What must be there before ``cell``."""
        if cell.method in PAPER:
            return Cell("tune_paper", "planted", VALIDATION_SEED)
        return Cell("ours", cell.case, cell.seed) if cell.method == "random_drop" else None

    def settings(self, cell: Cell) -> dict[str, Any]:
        """Everything that the result depends on; of the code, what decides in memsieve's own methods."""
        tuned = self.needs(cell)
        deciding = filter_of(METHODS[cell.method])
        asked = {"method": asdict(METHODS[cell.method]), "filter": deciding, "case": cell.case,
                 "seed": cell.seed, "spec": asdict(self.spec), "protocol": asdict(self.protocol),
                 "needs": self.hash(tuned) if tuned else None}  # fmt: skip
        if METHODS[cell.method].score == "evidence":
            asked["decided_by"] = code_of_decisions(at_the_loader=deciding.get("apply") == "sieve")
        return dict(json.loads(json.dumps(asked)))

    def hash(self, cell: Cell) -> str:
        return hashlib.sha256(json.dumps(self.settings(cell), sort_keys=True).encode()).hexdigest()[:16]

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """What is there of ``cell``, if it was made with these settings."""
        file = self.file(cell)
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        return found if found is not None and found["hash"] == self.hash(cell) else None


def run_cell(plan: Plan, cell: Cell, note: Callable[[str], None]) -> dict[str, Any]:
    """Train, measure and write ``cell``; a run that was stopped goes on from its checkpoint."""
    method, protocol = METHODS[cell.method], plan.protocol
    note(f"{cell.name}: data")
    data = plan.work / "data" / f"seed{cell.seed}"
    made = build(data, cell.seed, plan.spec)
    tuned = _tuned(plan, cell)
    run = plan.work / "cells" / f"{cell.name}-{plan.hash(cell)}"
    config = _config(plan, cell, run, data, made["rows"]["stream" if cell.case == "planted" else "oracle"], tuned)
    found: dict[str, Any] = {
        "hash": plan.hash(cell), "method": cell.method, "case": cell.case, "seed": cell.seed,
        "settings": plan.settings(cell), "tuned": tuned, "machine": machine(), "rows": made["rows"],
    }  # fmt: skip
    if method.trained:
        found |= _train(config, cell, tuned, note)
    note(f"{cell.name}: measuring")
    if cell.method == "tune_paper":
        found["threshold"] = thresholds(run, data, plan.spec.passes)
    else:
        groups = _groups(plan, cell, data) if method.grouped else None
        found |= decisions(
            run, data, method.part, method.score, groups, whole="oracle" if cell.case == "nothing" else "stream"
        )
        pipeline = run / "pipeline" if method.trained else _model(protocol)
        found["held_out"] = held_out_losses(pipeline, config, protocol.held_out_draws)
        if cell.case == "planted":
            found |= copies(pipeline, data, protocol, cell.seed)
    write_lines(plan.file(cell), found)
    if plan.keep_ledgers is not None and cell.method == "observe" and cell.case == "planted":
        kept = plan.keep_ledgers.with_name(f"{plan.keep_ledgers.name}{cell.seed}")
        shutil.copytree(run / "ledger", kept / "ledger", dirs_exist_ok=True)
        shutil.copy(data / "truth.parquet", kept / "truth.parquet")
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return found


def _train(config: RunConfig, cell: Cell, tuned: float | None, note: Callable[[str], None]) -> dict[str, Any]:
    """Train; the run's summary, and how long each step took: CPU seconds, since other work shares the machine."""
    session = set_up(config, _rule(cell, tuned))
    before = session.step
    note(f"{cell.name}: training, step {before} of {session.total_steps}")
    wall, cpu = time.perf_counter(), time.process_time()
    summary = fit(session)
    steps = max(summary["steps"] - before, 1)
    kept = ("steps", "updates", "read", "trained", "dropped", "groups", "condemned_groups", "overfitting")
    return {
        "cpu_seconds_per_step": round((time.process_time() - cpu) / steps, 4),
        "wall_seconds_per_step": round((time.perf_counter() - wall) / steps, 4),
        **{name: summary[name] for name in kept if name in summary},
    }


def _tuned(plan: Plan, cell: Cell) -> float | None:
    """The one number of a method that other cells choose: the paper's threshold, the rate of random drops."""
    needed = plan.needs(cell)
    if needed is None:
        return None
    result = plan.result(needed)
    if result is None:
        raise ValueError(f"cell {cell.name} needs {needed.name} first; name its method too")
    if cell.method in PAPER:
        return float(result["threshold"][PAPER[cell.method]])
    return float(sum(result["dropped"].values()) / result["read"])


def _rule(cell: Cell, tuned: float | None) -> Rival | None:
    if cell.method == "iet_agc":
        return LossBelowAverage()
    if cell.method == "random_drop":
        assert tuned is not None
        return RandomDrop(tuned, cell.seed)
    return None


def _config(plan: Plan, cell: Cell, run: Path, data: Path, rows: int, tuned: float | None) -> RunConfig:
    method, protocol = METHODS[cell.method], plan.protocol
    passes = plan.spec.passes if cell.case == "planted" else protocol.passes_of_nothing
    steps = protocol.steps or -(-rows * passes // protocol.batch_size)
    part = "oracle" if cell.case == "nothing" else method.part
    dropout = protocol.caption_dropout if method.caption_dropout is None else method.caption_dropout
    # The sieve measures held-out pairs on its own schedule, as its config has it.
    beside = [] if method.config == "openmoji_sieve.yaml" else [
        f"filter.held_out_per_window={protocol.held_out_per_window}"]  # fmt: skip
    overrides = [
        f"output={run}", f"model.path={_model(protocol)}", f"data.path={data / part}",
        f"data.held_out_path={data / 'held_out'}", f"data.held_out_max={protocol.held_out_max}",
        f"data.resolution={plan.spec.size}", f"data.streams={protocol.streams}", *beside,
        f"train.steps={steps}", f"train.seed={cell.seed}", f"train.batch_size={protocol.batch_size}",
        f"train.caption_dropout={dropout}", "train.threads=1", f"optimizer.lr={protocol.lr}",
        "optimizer.schedule=cosine", f"optimizer.warmup_steps={protocol.warmup_steps}", "optimizer.weight_decay=0.01",
        "validation.every=0", "validation.held_out_pairs=0", "checkpoint.every=250", "checkpoint.keep=1",
        "filter.ledger_kept=true", *method.settings,
    ]  # fmt: skip
    if any("{audit}" in setting for setting in method.settings):
        audit = _audited(plan.work / "audits" / f"seed{cell.seed}", data, cell.seed, plan)
        overrides = [setting.replace("{audit}", str(audit)) for setting in overrides]
    if method.grouped:
        overrides.append(f"data.groups={_groups(plan, cell, data)}")
    if cell.method in PAPER:
        overrides.append(f"filter.threshold={tuned}")
    return load_settings(RunConfig, CONFIGS / method.config, overrides)


def _audited(folder: Path, data: Path, seed: int, plan: Plan) -> Path:
    """An audit of the base model over every image of the stream and the held-out pairs, made once; resumed where it
    stopped."""
    shards = [str(data / part) for part in ("dedup", "held_out")]
    score_shards(
        AuditConfig.model_validate({
            "data": {"path": shards, "resolution": plan.spec.size}, "model": str(_model(plan.protocol)), "seed": seed,
            "draws": AUDIT_DRAWS, "batch_size": 16,
        }),
        folder,
    )  # fmt: skip
    return folder


def _groups(plan: Plan, cell: Cell, data: Path) -> Path:
    """Near-duplicates among the images of the stream, by an audit without a model; made once."""
    folder = plan.work / "audits" / f"looks{cell.seed}"
    out = folder / "groups.parquet"
    if not out.is_file():
        shards = {"path": str(data / "dedup"), "resolution": plan.spec.size}
        score_shards(AuditConfig.model_validate({"data": shards, "model": None}), folder)
        group_audit(folder, out)
    return out


def _model(protocol: Protocol) -> Path:
    path = Path(protocol.model)
    return path if path.is_absolute() else ROOT / path
