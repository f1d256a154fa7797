"""One task from its first byte to its marker: read, decode, score in batches, write."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from filtering.audit.config import AuditConfig
from filtering.audit.folder import AuditFolder, Marker
from filtering.audit.records import RowWriter, describe_image, new_record
from filtering.audit.scorer import Scorer
from filtering.audit.tasks import Task, Tasks
from filtering.data.decode import BadSample, centred_pixels, decode_image
from filtering.data.fields import check_image_size, printable
from filtering.data.rows import RawRow, content_id

__all__ = ["Advance", "UnreachableError", "Worker"]

PENDING: Final = 1024
"""Rows held back at most: a long row of broken samples does not fill the memory."""

Advance = Callable[[Task, int, float], None]
"""Called as work goes on: the task, samples done since the last call, share of the task done (0 where unknown)."""


class UnreachableError(OSError):
    """The bytes of a task could not be fetched: nothing is known of its samples, so it must be done again."""


@dataclass(slots=True)
class _Batch:
    """Rows in the order of the shard; ``places`` says which of them have ``pixels`` to score."""

    records: list[dict[str, Any]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    contents: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    pixels: list[torch.Tensor] = field(default_factory=list)
    progress: float = 0.0


class Worker:
    """Does tasks of one audit in this process.

    Args:
        scorer: None looks at the data alone.
    """

    def __init__(
        self,
        folder: AuditFolder,
        config: AuditConfig,
        tasks: Tasks,
        scorer: Scorer | None,
        config_hash: str,
        model_hash: str | None,
    ) -> None:
        self.folder, self.config, self.tasks, self.scorer = folder, config, tasks, scorer
        self.config_hash, self.model_hash = config_hash, model_hash

    def run(self, task: Task, advance: Advance | None = None) -> Marker:
        """Do one task: its Parquet file, then its marker. Doing it again gives the same rows.

        Raises:
            UnreachableError: the shard, or the rest of it, could not be fetched; nothing was written.
            OSError: the scores could not be written.
        """
        started = time.perf_counter()
        try:
            identity = self.tasks.identity(task)
        except OSError as error:
            raise UnreachableError(f"'{task.name}' cannot be reached: {error}") from error
        statuses: Counter[str] = Counter()
        scored = 0
        path = self.folder.scores(task)
        metadata = {"memsieve.task": printable(task.name), "memsieve.config_hash": self.config_hash}
        with RowWriter(path, metadata) as writer:
            for batch in self._batches(task):
                self._score(batch)
                writer.add(batch.records)
                statuses.update(str(record["status"]) for record in batch.records)
                scored += sum(record["n_draws"] > 0 for record in batch.records)
                if advance is not None:
                    advance(task, len(batch.records), batch.progress)
        marker = Marker(
            task=printable(task.name),
            identity=identity,
            config_hash=self.config_hash,
            model_hash=self.model_hash,
            rows=writer.count,
            scored=scored,
            failed=writer.count - statuses["ok"],
            statuses=dict(sorted(statuses.items())),
            truncated=statuses["truncated"] > 0,
            parquet_bytes=path.stat().st_size,
            seconds=round(time.perf_counter() - started, 3),
        )
        self.folder.write_marker(task, marker)
        return marker

    def _batches(self, task: Task) -> Iterator[_Batch]:
        """Batches never reach over the end of a task, so that a score does not depend on what else was audited."""
        batch = _Batch()
        size = self.tasks.size(task)
        for part, raw in self.tasks.read(task):
            if raw.status == "unreachable":
                raise UnreachableError(str(raw.error))
            self._add(batch, raw, part)
            batch.progress = min(raw.span[1] / size, 1.0) if size else 0.0
            if len(batch.places) >= self.config.batch_size or len(batch.records) >= PENDING:
                yield batch
                batch = _Batch()
        if batch.records:
            yield batch

    def _add(self, batch: _Batch, raw: RawRow, part: int) -> None:
        record = new_record(raw, part)
        batch.records.append(record)
        if raw.error is not None:
            return
        try:
            check_image_size(len(raw.image), self.config.data)
            image = decode_image(raw.image, self.config.data)
            describe_image(record, image)
        except BadSample as error:
            record["status"], record["error"] = error.status, printable(str(error))
            return
        if self.scorer is None:
            return
        batch.places.append(len(batch.records) - 1)
        batch.contents.append(content_id(raw.image))
        batch.captions.append(raw.caption or "")
        batch.pixels.append(centred_pixels(image, self.config.data.resolution))

    def _score(self, batch: _Batch) -> None:
        if self.scorer is None or not batch.places:
            return
        found = self.scorer.score(batch.contents, batch.captions, torch.stack(batch.pixels))
        for place, columns in zip(batch.places, found, strict=True):
            batch.records[place].update(columns)
