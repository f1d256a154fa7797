"""An audit asked by SQL: rows in order, images and looks as numbers, from files with any name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from memsieve.filtering.audit import query as module
from memsieve.filtering.audit.query import AuditQuery
from memsieve.filtering.settings import SettingsError
from tests.filtering.audit.asked import added
from tests.filtering.audit.written import row, write_audit


def test_rows_are_numbered_in_the_audits_order_whatever_its_folder_is_called(tmp_path: Path) -> None:
    root = write_audit(tmp_path / "a *[1] 'audit'", [row(f"p{i}", [1.0, 1.0]) for i in range(5)])
    with AuditQuery() as query:
        rows = query.add("audit", root)
        assert query.rows("SELECT row, key FROM audit ORDER BY row") == [(i, f"p{i}") for i in range(5)]
        assert len(rows) == 5 and [(part.first, part.rows) for part in rows.parts] == [(0, 5)]
        folder = query.folder
        assert folder.is_dir()
    assert not folder.exists()


def test_an_image_is_its_content_and_a_look_without_structure_is_none(tmp_path: Path) -> None:
    flat, nearly = "8000000000000000", "8000000000000003"
    looks = {"a": "0f" * 8, "b": flat, "c": nearly, "d": None, "e": "f" * 16, "f": "no number"}
    with AuditQuery() as query:
        added(query, "audit", tmp_path, *(row(name, phash=look) for name, look in looks.items()), row("a", sha256="z"))
        found = query.rows("SELECT key, look, content FROM audit ORDER BY row")
        assert [look for _, look, _ in found] == [int("0f" * 8, 16), None, None, None, None, None, int("0f" * 8, 16)]
        contents = [content for _, _, content in found]
        assert len(set(contents)) == 7 and None not in contents, "what is no hash is still an image of its own"


def test_an_unfinished_audit_is_refused_unless_asked(tmp_path: Path) -> None:
    root = write_audit(tmp_path, [row("a", [1.0, 1.0])])
    next((root / "markers").iterdir()).unlink()
    with AuditQuery() as query:
        with pytest.raises(SettingsError, match="1 of 1 shards are missing or stale"):
            query.add("audit", root)
        with pytest.raises(SettingsError, match="has no finished shard yet"):
            query.add("audit", root, partial=True)


def test_results_come_in_parts_and_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 2048)
    with AuditQuery() as query:
        parts = list(query.batches("SELECT range AS n FROM range(10000) ORDER BY n"))
        assert len(parts) > 2 and pa.Table.from_batches(parts)["n"].to_pylist() == list(range(10000))
        query.store("kept", parts[0].schema, iter(parts))
        assert query.number("SELECT sum(n) FROM kept") == sum(range(10000))
        assert query.numbers("SELECT n FROM kept WHERE n < 3 ORDER BY n")["n"].tolist() == [0, 1, 2]
