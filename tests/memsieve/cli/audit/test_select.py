"""``memsieve audit select``: what is kept, in each format that was asked for, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.filtering.audit.written import row, write_audit
from tests.memsieve.auditing import run, said

RANKED_BY = "ranked by the magnitude, since no --reference was given"


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """Scores 1 to 5, "e" the highest, "f" with the image of "a", and one sample that is broken."""
    rows = [row(name, [float(i)] * 2) for i, name in enumerate("abcde", 1)]
    twin = row("f", [1.0, 1.0], sha256=rows[0]["sha256"])
    return write_audit(tmp_path / "audit", [*rows, twin, row("z", status="bad_image", error="it is broken")])


def reasons(keep: Path) -> dict[str, str | None]:
    return {one["key"]: one["reason"] for one in pq.read_table(keep).to_pylist()}


def test_every_sample_is_counted_by_its_reason_and_the_cutoff_is_said(audit: Path, tmp_path: Path) -> None:
    result = run("select", audit, "--max-score", "3.5", "--out", tmp_path / "keep.parquet")
    assert result.exit_code == 0
    for line in ("│ kept │ 4 │", "│ score │ 2 │", "│ bad_image │ 1 │"):
        assert line in said(result), line
    assert "taken out above a score of 3.5" in said(result)
    assert reasons(tmp_path / "keep.parquet") == {
        **dict.fromkeys("abcf"), "d": "score", "e": "score", "z": "bad_image",
    }  # fmt: skip


def test_samples_of_one_image_are_kept_once_only_where_that_is_asked_for(audit: Path, tmp_path: Path) -> None:
    keep = tmp_path / "keep.parquet"
    words = ("select", audit, "--dedup-by", "phash", "--out", keep)
    assert run(*words, "--max-score", "9").exit_code == 0
    assert "duplicate" not in reasons(keep).values(), "--dedup-by says how, --dedup whether"
    result = run("select", audit, "--dedup", "--out", keep)
    assert result.exit_code == 0 and reasons(keep) == {**dict.fromkeys("abcde"), "f": "duplicate", "z": "bad_image"}
    assert "taken out above" not in said(result) and RANKED_BY not in said(result), "nothing was ranked"
    assert run(*words, "--dedup").exit_code == 0
    assert list(reasons(keep).values()).count("duplicate") == 5, "all have the phash of the first"


def test_the_magnitude_is_advised_against_unless_it_was_asked_for(audit: Path, tmp_path: Path) -> None:
    words = ("select", audit, "--drop-fraction", "0.2", "--out", tmp_path / "keep.parquet")
    assert RANKED_BY in said(run(*words))
    assert RANKED_BY not in said(run(*words, "--score", "magnitude"))
    assert reasons(tmp_path / "keep.parquet")["e"] == "score"


def test_all_that_is_asked_for_is_written(audit: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("keep.parquet", "keep.txt")]
    words = [word for file in files for word in ("--out", file)]
    assert run("select", audit, "--dedup", *words).exit_code == 0
    assert [line.split("\t")[2] for line in files[1].read_text().splitlines()] == list("abcde")
    assert reasons(files[0])["f"] == "duplicate"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --drop-fraction, --max-score, --false-drop-rate or --dedup"),
        (["--dedup", "--out", "k.csv"], "k.csv' must end in .parquet, .txt or .npy"),
    ],
)
def test_mistakes_get_one_sentence(
    audit: Path, words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("select", audit, *(words or ["--out", "k.parquet"]))
    assert isinstance(result.exception, ValueError) and message in str(result.exception)


def test_what_is_no_audit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("select", "nowhere", "--dedup", "--out", "k.parquet")
    assert isinstance(result.exception, ValueError) and "is not an audit" in str(result.exception)
