"""One rank of a multi-process test: does its jobs in turn, each a whole training run, and says what came out.

    torchrun --nproc_per_node=2 tests/train/rank_worker.py JOBS.json

A job is {"name", "config", "twist"}; a twist changes or damages the run on purpose.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState

from memsieve.filtering.data import sources
from memsieve.filtering.data.rows import RawRow
from memsieve.filtering.rules import EvidenceRule, WindowEnd
from memsieve.train.config import RunConfig
from memsieve.train.engine import full_weights
from memsieve.train.loop import BadDataError, fit
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from memsieve.train.step import NonFiniteError, WindowTrainer


def per_rank_mean(session: Session) -> None:
    """What an ordinary loop does: each rank divides by what it kept itself."""

    trainer, weights = session.trainer, []
    decide = trainer._decide

    def decided(*args: Any) -> Any:
        decision = decide(*args)
        weights.append(float(decision.weights.sum()))
        return decision

    def divisor(eligible: int, kept: float) -> float:
        window = weights[-session.config.train.accumulation :]
        return max(sum(window), 1e-3) * session.exchange.world_size

    trainer._decide, trainer._divisor = decided, divisor  # type: ignore[method-assign]


def spoil_rank_1(session: Session) -> None:
    """The second window of rank 1 has a sample with a NaN pixel."""
    original = session.loader

    class Spoiled:
        def __getattr__(self, name: str) -> Any:
            return getattr(original, name)

        def __iter__(self) -> Iterator[Any]:
            for window in original:
                if session.step == 1 and original.ranks.rank == 1:
                    window.rows[0].pixels[0, 0, 0] = float("nan")  # type: ignore[union-attr]
                yield window

    session.loader = Spoiled()  # type: ignore[assignment]


def infinite_loss_on_rank_1(session: Session) -> None:
    """In the second window one loss of rank 1 is not finite although the input is."""
    trainer, count = session.trainer, [0]
    original = WindowTrainer._losses

    def losses(batch: Any, apart: bool = False) -> Any:
        value, prediction = original(trainer, batch, apart)
        count[0] += 1
        if count[0] == 2 and session.exchange.rank == 1:
            value = value.clone()
            value[1] = float("inf")
        return value, prediction

    trainer._losses = losses  # type: ignore[method-assign]


def fail_on_rank_1(session: Session) -> None:
    """In the second window rank 1 fails by itself."""
    trainer, count = session.trainer, [0]

    def losses(batch: Any, apart: bool = False) -> Any:
        count[0] += 1
        if count[0] == 2 and session.exchange.rank == 1:
            raise OSError("the disk is gone")
        return WindowTrainer._losses(trainer, batch, apart)

    trainer._losses = losses  # type: ignore[method-assign]


def slow_headers_on_rank_1(session: Session) -> None:
    """Rank 1 takes a second for each row that it passes by its header, as from a far disk."""
    read = sources.read_shard

    def slowly(*args: Any, bodies: bool = True, **options: Any) -> Iterator[RawRow]:
        for row in read(*args, bodies=bodies, **options):
            if not bodies and session.exchange.rank == 1:
                time.sleep(1.0)
            yield row

    sources.read_shard = slowly  # type: ignore[assignment]


def divides_by_eligible(session: Session) -> None:
    """The threshold, with the mean over all samples."""
    assert session.filter is not None
    session.filter.rule.divides_by = "eligible"


def divides_by_kept(session: Session) -> None:
    """The threshold, with the mean over the kept samples."""
    assert session.filter is not None and session.filter.rule.divides_by == "kept"


class Everyone(EvidenceRule):
    """Whoever comes is condemned, at the end of the window."""

    def test_and_condemn(self, window: WindowEnd) -> None:
        self.latest = []
        rows = np.flatnonzero(window.groups["condemned_step"] < 0)
        (found,) = window.exchange.sum([len(rows)])
        if found:
            self._condemn(rows, window)


def condemn_everyone(session: Session) -> None:
    """Reaches what otherwise hangs on what a tiny model learns: nobody is left."""
    assert session.filter is not None
    session.filter.rule = Everyone(session.filter.config, session.filter.held_out)


TWISTS = {
    f.__name__: f
    for f in (
        condemn_everyone,
        divides_by_eligible,
        divides_by_kept,
        per_rank_mean,
        spoil_rank_1,
        infinite_loss_on_rank_1,
        fail_on_rank_1,
        slow_headers_on_rank_1,
    )
}


def run(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    config = RunConfig.model_validate(job["config"])
    session = set_up(config)
    for twist in [job["twist"]] if job.get("twist") else []:
        TWISTS[twist](session)
    model = session.accelerator.unwrap_model(session.model)
    outcome: dict[str, Any] = {
        "ranks": session.exchange.world_size,
        "engine": session.engine.name,
        "started_at": session.step,
    }
    try:
        outcome["summary"] = fit(session)
    except (BadDataError, NonFiniteError) as error:
        outcome["error"] = f"{type(error).__name__}: {error}"
    if session.recall is not None:
        outcome["recall"] = session.recall.rule.evidence.state_dict()
        outcome["retired"] = session.recall.rule.condemned
    outcome["schedule"] = session.schedule.last_epoch
    outcome["lr"] = session.schedule.get_last_lr()[0]
    main = session.accelerator.is_main_process
    weights = full_weights(session.engine, model, keep=main)
    if main:
        extra = {"weights": weights, "ema": [] if session.ema is None else list(session.ema.shadow_params)}
        torch.save(extra, folder / f"{job['name']}.pt")
    return outcome


def without_shared_memory_op() -> None:
    """DeepSpeed compiles an operator for inference on CPUs, a minute of two cores in a fresh home folder; training
    does not call it. Where it cannot be built, DeepSpeed goes without; here it is told so."""
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}


def main() -> None:
    path = Path(sys.argv[1])
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        without_shared_memory_op()
    outcomes = {}
    for job in json.loads(path.read_text()):
        AcceleratorState._reset_state()
        GradientState._reset_state()
        outcomes[job["name"]] = run(job, path.parent)
    (path.parent / f"outcomes-{torch.distributed.get_rank()}.json").write_text(json.dumps(outcomes))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
