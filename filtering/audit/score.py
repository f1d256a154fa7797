"""``memsieve audit score``: which tasks are to be done, and who does them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from memsieve.filtering.audit.config import AuditConfig, config_hash, deciding
from memsieve.filtering.audit.describing import Describer
from memsieve.filtering.audit.folder import AuditFolder, Marker
from memsieve.filtering.audit.ray_engine import RayCluster, run_on_ray
from memsieve.filtering.audit.scorer import AuditScorer
from memsieve.filtering.audit.status import task_state
from memsieve.filtering.audit.tasks import Task, Tasks
from memsieve.filtering.audit.work import Advance, AuditJob, Worker
from memsieve.filtering.folder_kind import AUDIT, refuse_other_kind
from memsieve.filtering.settings import SettingsError

__all__ = ["Callbacks", "Outcome", "Plan", "rank_of", "score_shards"]

_log = logging.getLogger(__name__)
Finished = Callable[[Task, Marker | None], None]


@dataclass(slots=True)
class Plan:
    """What this process is to do: ``todo`` of its ``total`` tasks; the rest is done already."""

    todo: list[Task]
    total: int


@dataclass(slots=True)
class Outcome:
    """What was done: markers by task, and the tasks that could not be done with the reason."""

    done: dict[str, Marker] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Who is told how far an audit is: of the plan, of samples and of tasks."""

    begin: Callable[[Plan], None] | None = None
    advance: Advance | None = None
    finished: Finished | None = None


def rank_of() -> tuple[int, int]:
    """(rank, world size) as ``accelerate launch`` and ``torchrun`` set them; (0, 1) without."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def score_shards(
    config: AuditConfig,
    out: Path,
    *,
    device: str | None = None,
    ray: RayCluster | None = None,
    rescore: bool = False,
    callbacks: Callbacks | None = None,
) -> Outcome:
    """Audit what ``config`` names into the folder ``out``: only what is missing or stale is done.

    Under ``accelerate launch`` or ``torchrun`` each rank takes every world-size-th task. A task that fails for what
    its data or network is, rather than for what a sample is, is noted and the others go on.

    Args:
        device: where the model goes; None takes the first GPU of the rank, or the CPU.
        ray: the cluster that does the work; None does it in this process, or in its ranks.
        rescore: let settings or a model other than those that the folder was scored with replace its scores.

    Raises:
        SettingsError: the settings, the data or the model cannot be used, or another audit is at work in ``out``.
        OSError: the scores could not be written, as on a full disk; the same command goes on.
    """
    refuse_other_kind(out, AUDIT, "--out")
    callbacks = callbacks or Callbacks()
    rank, world = rank_of() if ray is None else (0, 1)
    folder = AuditFolder(out)
    with folder.lock(rank):
        tasks = Tasks(config.data)
        # The driver of a cluster only has to know which model it is.
        where = _device(device) if ray is None else "cpu"
        scorer = AuditScorer(config, where) if config.model is not None else None
        describer = Describer(config.describe, config.data, where)
        job = _settle(folder, config, (scorer, describer), tasks, rank, rescore)
        mine = tasks.all[rank::world]
        states = [task_state(folder, tasks, task, job.config_hash) for task in mine]
        todo = [state.task for state in states if state.state != "done"]
        if callbacks.begin is not None:
            callbacks.begin(Plan(todo, len(mine)))
        if ray is not None:
            results = run_on_ray(job, todo, ray, callbacks.advance)
        else:
            results = _here(Worker(job, tasks, scorer, describer), todo, callbacks.advance)
        return _outcome(results, len(mine) - len(todo), callbacks.finished)


def _outcome(results: Iterator[tuple[Task, Marker | str]], skipped: int, finished: Finished | None) -> Outcome:
    """Do the work that ``results`` stands for, and note what became of each task."""
    outcome = Outcome(skipped=skipped)
    for task, result in results:
        if isinstance(result, Marker):
            outcome.done[task.name] = result
        else:
            outcome.failed[task.name] = result
            _log.warning("%s", result)
        if finished is not None:
            finished(task, result if isinstance(result, Marker) else None)
    return outcome


def _device(device: str | None) -> str | None:
    """The GPU of this rank where ranks share a machine."""
    local = os.environ.get("LOCAL_RANK")
    if device is not None or local is None:
        return device
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{int(local) % count}" if count else None


def _here(worker: Worker, todo: list[Task], advance: Advance | None) -> Iterator[tuple[Task, Marker | str]]:
    with closing(worker.run_all(todo, advance)) as results:
        for task, result in results:
            yield task, result if isinstance(result, Marker) else str(result)


def _settle(
    folder: AuditFolder,
    config: AuditConfig,
    by: tuple[AuditScorer | None, Describer],
    tasks: Tasks,
    rank: int,
    rescore: bool,
) -> AuditJob:
    """Write the audit's settings, or see that they are those it was begun with; rank 0 does, and the others wait.

    Raises:
        SettingsError: they are not, and ``rescore`` is off; or tasks of before are not named now.
    """
    # Not before the scorer is there, which sets the resolution where none was named.
    scorer, describer = by
    model = scorer.describe() if scorer is not None else None
    values = deciding(config, model, describer.identities)
    job = AuditJob(folder, config, config_hash(values), str(model["hash"]) if model is not None else None)
    if rank > 0:
        folder.wait_for_settings(job.config_hash)
        return job
    if folder.settings_file.is_file() and not rescore:
        _check_same(folder, values, tasks)
    folder.write_settings(
        {
            "config": config.model_dump(mode="json"),
            "deciding": values,
            "config_hash": job.config_hash,
            "tasks": [
                {"number": task.number, "name": task.name, "start": task.start, "stop": task.stop} for task in tasks.all
            ],
            "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "pillow", "numpy")},
        }
    )
    return job


def _check_same(folder: AuditFolder, values: dict[str, Any], tasks: Tasks) -> None:
    before = folder.settings()
    _compare(folder, before["deciding"], values)
    names = {task.name for task in tasks.all}
    lost = [task["name"] for task in before["tasks"] if task["name"] not in names]
    if lost and tasks.of_rows:
        raise SettingsError(
            f"'{folder.root}' holds scores of '{lost[0]}', and the data has other rows now: score all of it "
            "anew with --rescore, or name another --out"
        )
    if lost:
        raise SettingsError(
            f"'{folder.root}' also holds scores of {len(lost)} shard(s) that are not named now, the first "
            f"'{lost[0]}': name them too, or another --out; a list of shards can grow, not shrink"
        )


def _compare(folder: AuditFolder, before: dict[str, Any], now: dict[str, Any]) -> None:
    old, new = _flat(before), _flat(now)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise SettingsError(
                f"'{folder.root}' was scored with {name} = {_short(old.get(name))}, now it is {_short(new.get(name))}: "
                "use another --out, or --rescore to replace its scores"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
