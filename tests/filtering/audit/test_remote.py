"""Shards behind URLs and commands."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pyarrow as pa
import pyarrow.compute
import pytest

from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.status import audit_status
from memsieve.filtering.settings import SettingsError

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


@pytest.fixture
def bucket(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The shards in a bucket of an S3 server on this machine."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    from fsspec.config import conf

    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    monkeypatch.setitem(conf, "s3", {"endpoint_url": "http://{}:{}".format(*server.get_host_and_port())})
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    store.mkdir("bucket")
    for path in data.glob("*.tar"):
        store.put(str(path), f"bucket/{path.name}")
    yield "s3://bucket"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_s3(audit: Audit, data: Path, bucket: str, tmp_path: Path, read_rows: Read) -> None:
    url = f"{bucket}/0000{{0..2}}.tar"
    outcome = audit(url, tmp_path / "remote", draws=1)
    assert len(outcome.done) == 2 and list(outcome.failed) == [f"{bucket}/00002.tar"], "the third is not there"
    audit(data, tmp_path / "local", draws=1)
    assert without_names(read_rows(tmp_path / "remote")).equals(without_names(read_rows(tmp_path / "local")))
    store = fsspec.filesystem("s3")
    store.pipe("bucket/00001.tar", (data / "00000.tar").read_bytes())
    assert list(audit(url, tmp_path / "remote", draws=1).done) == [f"{bucket}/00001.tar"], "it changed"
    names = pa.compute.unique(read_rows(tmp_path / "remote")["sha256"])
    assert len(names) == 3


@pytest.mark.parametrize(
    ("url", "missing", "message"),
    [
        ("s3://b/x.tar", "s3fs", r"s3:// needs a package that is not installed: pip install .*\[s3\]'"),
        ("gs://b/x.tar", "gcsfs", r"\[gcs\]"),
        ("https://h/x.tar", "aiohttp", r"\[http\]"),
        ("s4://b/x.tar", "s3fs", r"s4:// is no kind of URL that fsspec knows"),
    ],
)
def test_a_kind_of_url_that_cannot_be_read_is_refused_at_once(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, missing: str, message: str
) -> None:
    registry = importlib.import_module("fsspec.registry")  # fsspec has a name of its own like this
    monkeypatch.setitem(sys.modules, missing, None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "fsspec.implementations.http", raising=False)
    for protocol in ("s3", "gs", "https"):
        monkeypatch.delitem(registry._registry, protocol, raising=False)
    with pytest.raises(SettingsError, match=message):
        audit(url, tmp_path / "run", model=False)
    assert not (tmp_path / "run" / "audit.json").exists()


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
