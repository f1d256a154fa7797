"""An audit's rows asked by SQL, streamed from its Parquet files: memory does not grow with the number of rows.

DuckDB reads the files, groups and sorts, and goes to disk where it would hold more than ``MEMORY``. What a row's draws
say is reckoned in numpy, batch by batch (``pair_scores``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.audit.folder import AuditFolder
from memsieve.filtering.audit.status import Status, finished_tasks
from memsieve.filtering.identity.phash import BITS, FEW

__all__ = ["BATCH", "AuditQuery", "Part", "Rows"]

MEMORY: Final = "3GB"
"""Of DuckDB; what is beyond lies in the folder for temporary files (``TMPDIR``)."""
BATCH: Final = 65_536
"""Rows that are in Python's hands at a time."""
_CONTENT: Final = "coalesce(try_cast(substr(sha256, 1, 32) AS UUID), try_cast(md5(sha256) AS UUID))"
_LOOK: Final = "try_cast('0x' || phash AS UBIGINT)"


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one task: ``rows`` of them from number ``first`` on, in ``file``."""

    file: Path
    first: int
    rows: int


@dataclass(frozen=True, slots=True)
class Rows:
    """One audit under a name that SQL knows.

    Its view ``NAME`` has the columns of ``SCORES_SCHEMA``, and ``row``, the number of the row in the audit's order;
    ``task_first``, that of its task's first row; ``content``, a number that stands for the image (null where it could
    not be read); ``look``, its perceptual hash as a number (null where the hash says nothing: of a picture without
    structure).
    """

    name: str
    about: dict[str, Any]
    status: Status
    parts: list[Part]

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)


class AuditQuery:
    """A connection with one or several audits in it. A context manager: temporary files go when it closes."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="memsieve-audit-")
        self.folder = Path(self._folder.name)
        # On disk, so that what does not fit into memory is only read again.
        self.connection = duckdb.connect(str(self.folder / "audit.db"))
        self.connection.execute("SET memory_limit = ?", [MEMORY])
        self.connection.execute("SET temp_directory = ?", [str(self.folder / "spill")])
        self.connection.execute("SET enable_progress_bar = false")

    def __enter__(self) -> AuditQuery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the connection and its temporary files."""
        self.connection.close()
        self._folder.cleanup()

    def add(self, name: str, root: Path, *, partial: bool = False) -> Rows:
        """The rows of the audit in ``root`` that are done, in the order of its tasks, as view ``name``.

        Raises:
            SettingsError: it is no audit, or is not complete and ``partial`` is off.
        """
        folder, (status, done) = AuditFolder(root), finished_tasks(root, partial=partial)
        parts, first = [], 0
        for task in done:
            file = folder.scores(task).resolve()
            parts.append(Part(file, first, pq.ParquetFile(file).metadata.num_rows))
            first += parts[-1].rows
        self._view(name, parts)
        return Rows(name, folder.settings(), status, parts)

    def _view(self, name: str, parts: list[Part]) -> None:
        """Over links with names of our own: DuckDB takes ``*`` and ``[`` in a path for a pattern."""
        links = self.folder / name
        links.mkdir()
        names = []
        for number, part in enumerate(parts):
            link = links / f"{number}.parquet"
            link.symlink_to(part.file)
            names.append(str(link))
        self.take(f"{name}_files", pa.table({"file": names, "first": pa.array([p.first for p in parts], pa.int64())}))
        self.connection.execute(
            f"CREATE VIEW {name} AS SELECT f.first + r.file_row_number AS row, f.first AS task_first, "
            f"{_CONTENT} AS content, "
            f"CASE WHEN bit_count({_LOOK}) BETWEEN {FEW} AND {BITS - FEW} THEN {_LOOK} END AS look, "
            "r.* EXCLUDE (filename, file_row_number) "
            f"FROM read_parquet({names!r}, filename = true, file_row_number = true) r "
            f"JOIN {name}_files f ON r.filename = f.file"
        )

    def take(self, name: str, table: pa.Table) -> None:
        """Keep ``table`` as table ``name``."""
        self.connection.register("incoming", table)
        self.connection.execute(f"CREATE TABLE {name} AS SELECT * FROM incoming")
        self.connection.unregister("incoming")

    def run(self, sql: str) -> None:
        """Execute ``sql``."""
        self.connection.execute(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """A small result."""
        return self.connection.execute(sql).fetchall()

    def number(self, sql: str) -> int:
        """A result of one number."""
        return int(self.rows(sql)[0][0] or 0)

    def numbers(self, sql: str) -> dict[str, Any]:
        """Columns as numpy arrays; a column with nulls is masked."""
        return self.connection.execute(sql).fetchnumpy()

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """A result in parts of up to ``BATCH`` rows, in its order where it has one."""
        yield from self.connection.cursor().sql(sql).to_arrow_reader(BATCH)

    def store(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Keep ``batches`` on disk, as view ``name``."""
        file = self.folder / f"{name}.parquet"
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_batch(batch)
        self.run(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{file}')")
