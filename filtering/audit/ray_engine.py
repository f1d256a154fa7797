"""Audits as tasks of a Ray cluster: one actor with the model per GPU, one idempotent call per shard."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.describing import Describer
from memsieve.filtering.audit.folder import AuditFolder, Marker
from memsieve.filtering.audit.tasks import Task, Tasks
from memsieve.filtering.audit.work import Advance, AuditJob, UnreachableError, Worker
from memsieve.filtering.extras import install
from memsieve.filtering.settings import SettingsError

__all__ = ["RayCluster", "run_on_ray"]

ATTEMPTS: Final = 3
"""Times that a task is given to a worker before it counts as failed: workers and nodes come and go."""


@dataclass(frozen=True, slots=True)
class RayCluster:
    """The cluster that an audit runs on. All nodes must see the audit's folder, the shards and the model under the same
    paths, and have memsieve installed."""

    address: str | None = None
    """Of an existing cluster; None takes ``RAY_ADDRESS``, or starts a local one."""
    workers: int = 0
    """Actors; 0 takes one per GPU, or one per core where there is no GPU."""


class _Actor:
    """Lives in a worker of the cluster; loads the model once."""

    def __init__(self, root: str, config: dict[str, Any], config_hash: str, model_hash: str | None) -> None:
        import torch

        from memsieve.filtering.audit.scorer import AuditScorer

        # Ray gives an actor its share of the machine's cores by this variable.
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        settings = AuditConfig.model_validate(config)
        scorer = AuditScorer(settings) if settings.model is not None else None
        if scorer is not None and scorer.describe()["hash"] != model_hash:
            raise SettingsError(f"the model at '{settings.model}' is another one on this node than on the driver's")
        tasks = Tasks(settings.data, known=[])
        job = AuditJob(AuditFolder(Path(root)), settings, config_hash, model_hash)
        self.worker = Worker(job, tasks, scorer, Describer(settings.describe, settings.data))

    def ready(self) -> int:
        """The process, once the model is there."""
        return os.getpid()

    def run(self, task: dict[str, Any]) -> dict[str, Any] | str:
        """A marker's fields, or why the task's bytes could not be fetched."""
        try:
            return asdict(self.worker.run(Task(**task)))
        except UnreachableError as error:
            return str(error)


@dataclass(slots=True)
class _Pool:
    """Actors that are starting, idle or at work, by the reference that is waited for."""

    starting: dict[Any, Any] = field(default_factory=dict)
    working: dict[Any, tuple[Any, Task]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)


def run_on_ray(
    job: AuditJob, todo: list[Task], cluster: RayCluster, advance: Advance | None = None
) -> Iterator[tuple[Task, Marker | str]]:
    """Do ``todo`` on a cluster; (task, its marker or why it failed) as they end.

    A worker that dies costs the shard in its hands, which goes to another one, up to three times.

    Raises:
        SettingsError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise SettingsError(f"--engine ray needs Ray: {install('ray')}") from None
    if not todo:
        return
    started = not ray.is_initialized()
    if started:
        _start(ray, cluster.address)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = cluster.workers or gpus or max(1, int(ray.cluster_resources().get("CPU", 1)))
        options = {"num_gpus": min(1.0, gpus / count) if gpus else 0, "num_cpus": 1 if gpus else 0.5}
        actor = ray.remote(**options)(_Actor)
        root = str(job.folder.root.resolve())
        arguments = (root, job.config.model_dump(mode="json"), job.config_hash, job.model_hash)
        for task, result in _dispatch(ray, actor, arguments, todo, min(count, len(todo))):
            if advance is not None and isinstance(result, Marker):
                advance(task, result.rows, 1.0)
            yield task, result
    finally:
        if started:
            ray.shutdown()


def _start(ray: Any, address: str | None) -> None:
    """Join the cluster at ``address``, or start one here."""
    # Ray reports its use over the network unless told not to, and waits for that where there is no network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address or os.environ.get("RAY_ADDRESS"), log_to_driver=False, include_dashboard=False)
    except (ConnectionError, ValueError) as error:
        raise SettingsError(f"--ray-address = '{address}': the cluster cannot be reached: {error}") from error


def _dispatch(
    ray: Any, actor: Any, arguments: tuple[Any, ...], todo: list[Task], count: int
) -> Iterator[tuple[Task, Marker | str]]:
    pool = _Pool()
    queue = deque(todo)
    attempts = dict.fromkeys(todo, 0)
    lost = 0

    def start() -> None:
        new = actor.remote(*arguments)
        pool.starting[new.ready.remote()] = new

    for _ in range(count):
        start()
    while queue or pool.working:
        while queue and pool.idle:
            task, worker = queue.popleft(), pool.idle.pop()
            attempts[task] += 1
            pool.working[worker.run.remote(asdict(task))] = (worker, task)
        done, _ = ray.wait([*pool.working, *pool.starting], num_returns=1, timeout=5.0)
        for reference in done:
            try:
                value = ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except ray.exceptions.RayError as error:
                if reference in pool.starting:
                    del pool.starting[reference]
                    lost += 1
                    if lost > ATTEMPTS * count:
                        raise SettingsError(f"--engine ray: no worker comes up: {_first(error)}") from error
                else:
                    _, task = pool.working.pop(reference)
                    if attempts[task] < ATTEMPTS:
                        queue.appendleft(task)
                    else:
                        yield task, f"'{task.name}' was lost with its worker {ATTEMPTS} times: {_first(error)}"
                start()
                continue
            if reference in pool.starting:
                pool.idle.append(pool.starting.pop(reference))
                continue
            worker, task = pool.working.pop(reference)
            pool.idle.append(worker)
            yield task, Marker(**value) if isinstance(value, dict) else value


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
