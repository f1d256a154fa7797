"""Keep-lists as files, for memsieve and for other tools."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from memsieve.filtering.audit.keep_list_files import write_selection
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.select import Rule, select_rows
from memsieve.filtering.settings import SettingsError

Audit = Callable[..., Outcome]


def test_lists_for_other_tools(audit: Audit, tmp_path: Path, png: Callable[[int], bytes]) -> None:
    """Text for people and scripts; DataComp's array, sorted as its resharder needs it."""
    uids = [hashlib.md5(bytes([i])).hexdigest() for i in range(6)]
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, uid in enumerate(uids):
            parts = {"png": png(i % 5), "txt": b"a", "json": json.dumps({"uid": uid}).encode()}
            for suffix, data in parts.items():
                info = tarfile.TarInfo(f"k{i}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    audit(tmp_path / "a.tar", tmp_path / "run", model=False)
    with select_rows(tmp_path / "run", Rule(dedup="sha256")) as selection:
        write_selection(selection, tmp_path / "keep.npy")
        array = np.load(tmp_path / "keep.npy")
        assert array.dtype == np.dtype("u8,u8") and [f"{a:016x}{b:016x}" for a, b in array] == sorted(uids[:5])
        write_selection(selection, tmp_path / "keep.txt")
        lines = (tmp_path / "keep.txt").read_text().splitlines()
        assert [line.split("\t")[1:] for line in lines] == [[str(i), f"k{i}"] for i in range(5)]
        with pytest.raises(SettingsError, match=r"must end in"):
            write_selection(selection, tmp_path / "keep.csv")


def test_npy_needs_uids(audit: Audit, mixed: Path, tmp_path: Path) -> None:
    audit(mixed, tmp_path / "run", model=False)
    with (
        select_rows(tmp_path / "run", Rule(dedup="sha256")) as selection,
        pytest.raises(SettingsError, match="24 of 24 kept samples have no 'uid'"),
    ):
        write_selection(selection, tmp_path / "keep.npy")
    assert sorted(file.name for file in tmp_path.iterdir() if "keep" in file.name) == [], "nothing half written"
