"""``memsieve audit status``: what is done and what is not, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memsieve.cli.audit.status import _duration
from tests.memsieve.auditing import run, said
from tests.train.conftest import write_shards


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    words = ("--data", write_shards(tmp_path / "data", 6, per_shard=3), "--data-only", "--out", tmp_path / "run")
    assert run("score", *words).exit_code == 0
    return tmp_path / "run"


def test_shards_and_samples_are_counted(audit: Path) -> None:
    result = run("status", audit)
    assert result.exit_code == 0
    for line in ("│ done │ 2 │", "│ missing │ 0 │", "│ stale │ 0 │", "│ gone │ 0 │", "│ samples: ok │ 6 │"):
        assert line in said(result), line
    assert "left, at the rate" not in said(result)


def test_what_is_not_done_is_named_with_its_reason_and_the_exit_code_is_1(audit: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "00001.tar").unlink()
    next((audit / "markers").glob("00000.tar*")).unlink()
    result = run("status", audit)
    assert result.exit_code == 1
    assert "│ done │ 0 │" in said(result) and "│ missing │ 1 │" in said(result) and "│ gone │ 1 │" in said(result)
    lines = " ".join(result.stderr.split())
    assert f"missing: {tmp_path / 'data' / '00000.tar'}: not scored yet" in lines
    assert f"gone: {tmp_path / 'data' / '00001.tar'}: " in lines


def test_programs_read_one_json_object_from_standard_output_whatever_the_exit_code(audit: Path) -> None:
    whole = run("status", audit, "--json")
    next((audit / "markers").glob("00000.tar*")).unlink()
    part = run("status", audit, "--json")
    assert (whole.exit_code, part.exit_code) == (0, 1)
    found = [json.loads(result.stdout) for result in (whole, part)]
    assert [(one["complete"], one["done"], one["missing"], one["rows"]) for one in found] == [
        (True, 2, 0, 6),
        (False, 1, 1, 3),
    ]


def test_what_is_no_audit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("status", "nowhere")
    assert isinstance(result.exception, ValueError) and "is not an audit" in str(result.exception)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.4, "12 s"),
        (29, "29 s"),
        (50, "1 minutes"),
        (7100, "118 minutes"),
        (7200, "2.0 hours"),
        (90000, "25.0 hours"),
    ],
)
def test_durations_are_said_in_the_unit_that_a_person_would_take(seconds: float, text: str) -> None:
    assert _duration(seconds) == text
