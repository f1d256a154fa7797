"""``memsieve audit score``: which tasks are to be done, and who does them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from memsieve.filtering.audit.config import AuditConfig, config_hash, deciding
from memsieve.filtering.audit.folder import AuditFolder, Marker
from memsieve.filtering.audit.scorer import Scorer
from memsieve.filtering.audit.status import task_state
from memsieve.filtering.audit.tasks import Task, Tasks
from memsieve.filtering.audit.work import Advance, Worker
from memsieve.filtering.folder_kind import AUDIT, refuse_other_kind
from memsieve.filtering.settings import SettingsError

__all__ = ["Outcome", "Plan", "rank_of", "score_shards"]

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


def rank_of() -> tuple[int, int]:
    """(rank, world size) as ``accelerate launch`` and ``torchrun`` set them; (0, 1) without."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def score_shards(
    config: AuditConfig,
    out: Path,
    *,
    engine: Literal["local", "ray"] = "local",
    device: str | None = None,
    rescore: bool = False,
    ray: dict[str, Any] | None = None,
    begin: Callable[[Plan], None] | None = None,
    advance: Advance | None = None,
    finished: Finished | None = None,
) -> Outcome:
    """Audit what ``config`` names into the folder ``out``: only what is missing or stale is done.

    Under ``accelerate launch`` or ``torchrun`` each rank takes every world-size-th task. A task that fails for what
    its data or network is, rather than for what a sample is, is noted and the others go on.

    Args:
        engine: this process (or its ranks), or Ray.
        device: where the model goes; None takes the first GPU of the rank, or the CPU.
        rescore: let settings or a model other than those that the folder was scored with replace its scores.
        ray: ``address`` and ``workers`` of the Ray engine.
        begin, advance, finished: told of the plan, of samples and of tasks.

    Raises:
        SettingsError: the settings, the data or the model cannot be used, or another audit is at work in ``out``.
        OSError: the scores could not be written, as on a full disk; the same command goes on.
    """
    refuse_other_kind(out, AUDIT, "--out")
    rank, world = rank_of() if engine == "local" else (0, 1)
    folder = AuditFolder(out)
    with folder.lock(rank):
        tasks = Tasks(config.data)
        # The driver of a cluster only has to know which model it is.
        where = "cpu" if engine == "ray" else _device(device)
        scorer = Scorer(config, where) if config.model is not None else None
        model = scorer.describe() if scorer is not None else None
        values = deciding(config, model)
        wanted = config_hash(values)
        if rank == 0:
            _settle(folder, config, values, tasks, rescore)
        else:
            folder.wait_for_settings(wanted)
        mine = tasks.all[rank::world]
        states = [task_state(folder, tasks, task, wanted) for task in mine]
        todo = [state.task for state in states if state.state != "done"]
        outcome = Outcome(skipped=len(mine) - len(todo))
        if begin is not None:
            begin(Plan(todo, len(mine)))
        model_hash = str(model["hash"]) if model is not None else None
        if engine == "ray":
            from memsieve.filtering.audit.ray_engine import run_on_ray

            results = run_on_ray(folder, config, todo, wanted, model_hash, advance=advance, **(ray or {}))
        else:
            results = _here(Worker(folder, config, tasks, scorer, wanted, model_hash), todo, advance)
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


def _settle(folder: AuditFolder, config: AuditConfig, values: dict[str, Any], tasks: Tasks, rescore: bool) -> None:
    """Write the audit's settings, or see that they are those it was begun with.

    Raises:
        SettingsError: they are not, and ``rescore`` is off; or tasks of before are not named now.
    """
    names = {task.name for task in tasks.all}
    if folder.settings_file.is_file():
        before = folder.settings()
        if not rescore:
            _compare(folder, before["deciding"], values)
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
    folder.write_settings(
        {
            "config": config.model_dump(mode="json"),
            "deciding": values,
            "config_hash": config_hash(values),
            "tasks": [
                {"number": task.number, "name": task.name, "start": task.start, "stop": task.stop} for task in tasks.all
            ],
            "versions": {name: version(name) for name in ("torch", "diffusers", "transformers", "pillow", "numpy")},
        }
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
