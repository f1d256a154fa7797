"""Shards behind URLs and commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pyarrow as pa
import pytest

from filtering.audit.score import Outcome
from filtering.audit.status import audit_status
from filtering.settings import SettingsError

Audit = Callable[..., Outcome]
Read = Callable[[Path], pa.Table]


@pytest.fixture
def data(make_shards: Callable[..., Path], tmp_path: Path) -> Path:
    return make_shards(tmp_path / "data", 6, per_shard=3)


def without_names(table: pa.Table) -> pa.Table:
    return table.drop_columns(["shard"])


@pytest.fixture
def served(data: Path) -> Iterator[str]:
    """The shards on a real web server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(data)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_object_stores_by_url(audit: Audit, data: Path, tmp_path: Path, read_rows: Read) -> None:
    store = fsspec.filesystem("memory")
    for path in data.glob("*.tar"):
        store.pipe(f"/bucket/{path.name}", path.read_bytes())
    audit("memory://bucket/0000{0..1}.tar", tmp_path / "remote", model=False)
    audit(data, tmp_path / "local", model=False)
    assert without_names(read_rows(tmp_path / "remote")).equals(without_names(read_rows(tmp_path / "local")))
    assert audit_status(tmp_path / "remote").complete
    store.pipe("/bucket/00001.tar", (data / "00000.tar").read_bytes())
    assert audit_status(tmp_path / "remote").counts["stale"] == 1
    store.rm("/bucket/00000.tar")
    assert audit_status(tmp_path / "remote").counts["gone"] == 1


def test_web_servers(audit: Audit, data: Path, served: str, tmp_path: Path, read_rows: Read) -> None:
    pytest.importorskip("aiohttp")
    outcome = audit(f"{served}/0000{{0..2}}.tar", tmp_path / "remote", model=False)
    assert len(outcome.done) == 2 and list(outcome.failed) == [f"{served}/00002.tar"], "the third is not there"
    audit(data, tmp_path / "local", model=False)
    assert without_names(read_rows(tmp_path / "remote")).equals(without_names(read_rows(tmp_path / "local")))


def test_commands_only_where_allowed(audit: Audit, data: Path, tmp_path: Path, read_rows: Read) -> None:
    command = f"pipe:cat {shlex.quote(str(data))}/0000{{0..1}}.tar"
    with pytest.raises(SettingsError, match="--allow-pipe"):
        audit(command, tmp_path / "remote", model=False)
    audit(command, tmp_path / "remote", model=False, data={"allow_pipe": True})
    audit(data, tmp_path / "local", model=False)
    assert without_names(read_rows(tmp_path / "remote")).equals(without_names(read_rows(tmp_path / "local")))
    cut = f"pipe:head -c 5000 {shlex.quote(str(data / '00000.tar'))}; exit 3"
    outcome = audit(cut, tmp_path / "cut", model=False, data={"allow_pipe": True})
    assert not outcome.done and "failed with exit code 3" in next(iter(outcome.failed.values()))
