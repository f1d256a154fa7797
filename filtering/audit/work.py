"""Tasks from their first byte to their marker: read and decode ahead, score in batches, write."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from memsieve.filtering.audit.ahead import run_ahead
from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.describing import Described, Describer
from memsieve.filtering.audit.folder import AuditFolder, Marker
from memsieve.filtering.audit.records import RowWriter, describe_image, new_record
from memsieve.filtering.audit.scorer import AuditScorer
from memsieve.filtering.audit.tasks import Task, Tasks
from memsieve.filtering.data.decode import BadSample, centred_pixels, decode_image
from memsieve.filtering.data.fields import check_image_size, printable
from memsieve.filtering.data.rows import RawRow, content_id

__all__ = ["Advance", "AuditJob", "UnreachableError", "Worker"]

PENDING: Final = 1024
"""Rows held back at most: a long row of broken samples does not fill the memory."""
PAIRS: Final = 8192
"""Pairs of a task that are remembered, for their copies; of more, copies are scored again."""

Advance = Callable[[Task, int, float], None]
"""Called as work goes on: the task, samples done since the last call, share of the task done (0 where unknown)."""


@dataclass(frozen=True, slots=True)
class AuditJob:
    """Which audit the tasks are of: where its rows go, by which settings they are made, and what their markers say."""

    folder: AuditFolder
    config: AuditConfig
    config_hash: str
    """Of everything that rows and scores are a function of."""
    model_hash: str | None
    """None where the data alone is looked at."""


class UnreachableError(OSError):
    """The bytes of a task could not be fetched: nothing is known of its samples, so it must be done again."""


@dataclass(slots=True)
class _Batch:
    """Rows in the order of the shard; ``places`` says which of them have a score, and where it will be written;
    ``described`` the same of descriptors, which are there when the batch is.

    ``contents``, ``captions`` and ``pixels`` are of the pairs that are scored, ``fresh`` their scores: copies of a pair
    share them.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    places: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    described: list[tuple[int, Described]] = field(default_factory=list)
    fresh: list[dict[str, Any]] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    pixels: list[torch.Tensor] = field(default_factory=list)
    progress: float = 0.0


@dataclass(frozen=True, slots=True)
class _Edge:
    """Where a task begins, with its ``identity``, or ends; with ``error`` where it could not be fetched."""

    task: Task
    identity: dict[str, Any] = field(default_factory=dict)
    error: UnreachableError | None = None


class Worker:
    """Does tasks of one audit in this process.

    Args:
        scorer: None looks at the data alone.
        describer: of what the job's settings ask for.
    """

    def __init__(self, job: AuditJob, tasks: Tasks, scorer: AuditScorer | None, describer: Describer) -> None:
        self.job, self.config, self.tasks = job, job.config, tasks
        self.scorer, self.describer = scorer, describer

    def run(self, task: Task, advance: Advance | None = None) -> Marker:
        """Do one task: its Parquet file, then its marker. Doing it again gives the same rows.

        Raises:
            UnreachableError: the shard, or the rest of it, could not be fetched; nothing was written.
            OSError: the scores could not be written.
        """
        ((_, result),) = self.run_all([task], advance)
        if isinstance(result, UnreachableError):
            raise result
        return result

    def run_all(
        self, tasks: Sequence[Task], advance: Advance | None = None
    ) -> Generator[tuple[Task, Marker | UnreachableError], None, None]:
        """Do tasks one after another, each as ``run`` does; the next one is opened while the last one is scored.

        A task that could not be fetched is handed out as its error, and the others go on.

        Raises:
            OSError: the scores could not be written.
        """
        with run_ahead(self._read(tasks), self.config.prefetch) as pieces:
            for task in tasks:
                result: Marker | UnreachableError
                try:
                    result = self._write(task, pieces, advance)
                except UnreachableError as error:
                    result = error
                yield task, result

    def _write(self, task: Task, pieces: Iterator[_Batch | _Edge], advance: Advance | None) -> Marker:
        started = time.perf_counter()
        edge = next(pieces)
        assert isinstance(edge, _Edge) and edge.task == task
        if edge.error is not None:
            raise edge.error
        statuses: Counter[str] = Counter()
        scored = 0
        path = self.job.folder.scores(task)
        metadata = {"memsieve.task": printable(task.name), "memsieve.config_hash": self.job.config_hash}
        with RowWriter(path, metadata, self.describer.fields) as writer:
            while isinstance(batch := next(pieces), _Batch):
                self._score(batch)
                writer.add(batch.records)
                statuses.update(str(record["status"]) for record in batch.records)
                scored += sum(record["n_draws"] > 0 for record in batch.records)
                if advance is not None:
                    advance(task, len(batch.records), batch.progress)
            if batch.error is not None:
                raise batch.error
        marker = Marker(
            task=printable(task.name),
            identity=edge.identity,
            config_hash=self.job.config_hash,
            model_hash=self.job.model_hash,
            rows=writer.count,
            scored=scored,
            failed=writer.count - statuses["ok"],
            statuses=dict(sorted(statuses.items())),
            truncated=statuses["truncated"] > 0,
            parquet_bytes=path.stat().st_size,
            seconds=round(time.perf_counter() - started, 3),
        )
        self.job.folder.write_marker(task, marker)
        return marker

    def _read(self, tasks: Sequence[Task]) -> Generator[_Batch | _Edge, None, None]:
        """Each task as its identity, its batches, and its end; one that cannot be fetched ends with the error."""
        for task in tasks:
            try:
                identity = self.tasks.identity(task)
            except OSError as error:
                yield _Edge(task, error=UnreachableError(f"'{task.name}' cannot be reached: {error}"))
                continue
            yield _Edge(task, identity)
            try:
                yield from self._batches(task)
            except UnreachableError as error:
                yield _Edge(task, error=error)
            else:
                yield _Edge(task)

    def _batches(self, task: Task) -> Iterator[_Batch]:
        """Batches never reach over the end of a task: the last bits of a score depend on the size of its batch, and
        would depend on what else was audited, and on where an audit was stopped."""
        batch = _Batch()
        pairs: dict[tuple[str, str], dict[str, Any]] = {}
        self.describer.begin()
        size = self.tasks.size(task)
        most = self.config.batch_size
        if self.scorer is not None:
            most *= len(self.config.data.shapes)  # so that forwards of one shape are about full
        for part, raw in self.tasks.read(task):
            if raw.status == "unreachable":
                raise UnreachableError(str(raw.error))
            self._add(batch, raw, part, pairs)
            batch.progress = min(raw.span[1] / size, 1.0) if size else 0.0
            if len(batch.fresh) >= most or len(batch.records) >= PENDING:
                self.describer.fill()
                yield batch
                batch = _Batch()
        if batch.records:
            self.describer.fill()
            yield batch

    def _add(self, batch: _Batch, raw: RawRow, part: int, pairs: dict[tuple[str, str], dict[str, Any]]) -> None:
        """Append a row. A copy of a pair of this task, which would draw the same, takes its score from there."""
        record = new_record(raw, part)
        batch.records.append(record)
        if raw.error is not None:
            return
        try:
            check_image_size(len(raw.image), self.config.data)
            image = decode_image(raw.image, self.config.data)
            describe_image(record, image)
            batch.described.append((len(batch.records) - 1, self.describer.add(raw.image, image)))
        except BadSample as error:
            record["status"], record["error"] = error.status, printable(str(error))
            return
        if self.scorer is None:
            return
        pair = (content_id(raw.image), raw.caption or "")
        columns = pairs.get(pair)
        if columns is None:
            columns = {}
            if len(pairs) < PAIRS:
                pairs[pair] = columns
            batch.fresh.append(columns)
            batch.contents.append(pair[0])
            batch.captions.append(pair[1])
            batch.pixels.append(centred_pixels(image, *self.config.data.shapes))
        batch.places.append((len(batch.records) - 1, columns))

    def _score(self, batch: _Batch) -> None:
        if self.scorer is not None:
            shapes: dict[torch.Size, list[int]] = {}
            for place, pixels in enumerate(batch.pixels):
                shapes.setdefault(pixels.shape, []).append(place)
            size = self.config.batch_size
            for places in shapes.values():
                for start in range(0, len(places), size):
                    self._score_part(self.scorer, batch, places[start : start + size])
        for place, columns in [*batch.places, *batch.described]:
            batch.records[place].update(columns)

    def _score_part(self, scorer: AuditScorer, batch: _Batch, places: list[int]) -> None:
        """Pairs of one shape, in one forward."""
        contents, captions = ([values[i] for i in places] for values in (batch.contents, batch.captions))
        found = scorer.score(contents, captions, torch.stack([batch.pixels[i] for i in places]))
        for i, values in zip(places, found, strict=True):
            batch.fresh[i].update(values)
