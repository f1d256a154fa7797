"""The page of an audit: what was found, nothing that runs, and nothing of what should stay here."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memsieve.filtering.audit.pair_scores import AUDIT_SIGNALS
from memsieve.filtering.audit.summary import summarise
from memsieve.filtering.data.archives import shard_identity
from memsieve.pages.audit import HIGHER, _charts, _meaning, _standing, build_audit_report
from tests.filtering.audit.written import row, write_audit
from tests.memsieve.auditing import run
from tests.train.conftest import picture


class Tags(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_page_holds_what_was_found_and_nothing_that_runs(audited: Path, tmp_path: Path) -> None:
    rows = [("pair 0", 6)] + [(f"pair {i}", 1) for i in range(1, 14)]
    contents = {row.caption: row.content for row in summarise(audited).top}
    truth = pa.table({"group": [contents[caption] for caption, _ in rows], "repeats": [count for _, count in rows]})
    pq.write_table(truth, tmp_path / "truth.parquet")
    page, summary = build_audit_report(audited, truth=tmp_path / "truth.parquet", planted_from=5)
    text = page.read_text()
    tags = Tags()
    tags.feed(text)
    assert "script" not in tags.names and not any(name.startswith("on") for name in tags.attributes)
    assert "&lt;script&gt;alert(1)" in text, "the caption is shown, as text"
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", text), "something is loaded from outside"
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert text.count('<img class="thumb"') == 15 and "planted</span>" in text
    values = json.loads((audited / "summary.json").read_text())
    assert (values["rows"], values["pairs"], values["scored"], values["failed"]) == (21, 15, 20, 1)
    assert (values["duplicate_groups"], values["duplicate_samples"]) == (1, 5)
    assert values["truth"]["auc"] == 1.0 and values["truth"]["precision_at"] == {"1": 1.0, "10": 0.1}
    assert values["truth"]["by_repeats"] == {"6": {"pairs": 1, "auc": 1.0}}
    assert summary.top[0].caption == "pair 0" and summary.top[0].score == 91.0 and summary.top[0].copies == 6
    counted = sum(int(counts.sum()) for _, _, counts in summary.histograms["loss"])
    assert counted == 2 * 15, "a pair's draws once, whatever its copies"


def test_what_a_higher_score_means_is_said_of_each_signal(audited: Path, tmp_path: Path) -> None:
    """Nothing is called memorised for a number that compares with no other model."""
    told = {}
    for signals in (("magnitude",), ("loss", "loss_gap"), None):
        page, _ = build_audit_report(audited, tmp_path / "p.html", signals=signals)
        told[signals] = " ".join(page.read_text().split())
    assert "more likely memorised" not in "".join(told.values())
    for signals, words in (
        (("magnitude",), "Higher where the caption changes the prediction more."),
        (
            ("loss", "loss_gap"),
            "Higher where the loss is lower, as it also is of plain pictures; the caption helps more.",
        ),
        (None, "Higher where the caption changes the prediction more."),
    ):
        assert f"{words} This compares with no other model and says little" in told[signals]
    assert _meaning("reference_ratio").endswith("as it does what it has memorised.") and _meaning(None) == ""
    assert set(HIGHER) == set(AUDIT_SIGNALS)


def test_scores_that_are_all_alike_leave_no_cut_off_to_choose(audited: Path) -> None:
    summary = summarise(audited)
    choice = _charts(summary)[-1]
    alike = _charts(replace(summary, curve=([0.0, 0.0], [0.5, 0.0])))[-1]
    assert choice["title"] == alike["title"] == "Dropped against cut-off" and choice["svg"] and not alike["svg"]


def test_pairs_planted_alike_are_judged_apart(audited: Path, tmp_path: Path) -> None:
    """Against the AUC counted by hand: the share of (planted, ordinary) pairs that stand in the right order."""
    found = summarise(audited)
    score = {row.content: row.score for row in found.top}
    repeats = {content: (6, 60, 60, 1, 1)[i % 5] for i, content in enumerate(sorted(score))}
    table = pa.table({"group": list(repeats), "repeats": list(repeats.values())})
    pq.write_table(table, tmp_path / "truth.parquet")
    page, summary = build_audit_report(audited, truth=tmp_path / "truth.parquet", planted_from=6)
    ordinary = [score[content] or 0 for content, count in repeats.items() if count == 1]
    rows = summary.values["truth"]["by_repeats"]
    for count in (6, 60):
        planted = [score[content] or 0 for content, number in repeats.items() if number == count]
        wins = [(p > o) + (p == o) / 2 for p in planted for o in ordinary]
        assert rows[str(count)] == {"pairs": len(planted), "auc": pytest.approx(sum(wins) / len(wins))}
    assert "Pairs planted alike" in page.read_text()


def test_without_samples_no_caption_and_no_picture_is_on_the_page(audited: Path, tmp_path: Path) -> None:
    whole, _ = build_audit_report(audited)
    shared, _ = build_audit_report(audited, tmp_path / "shared" / "page.html", samples=False)
    assert "pair 1" in whole.read_text() and "data:image" in whole.read_text()
    assert "pair 1" not in shared.read_text() and "data:image" not in shared.read_text()
    assert (tmp_path / "shared" / "summary.json").read_bytes() == (audited / "summary.json").read_bytes()


def test_what_is_missing_damaged_or_of_no_use_stands_on_top(tmp_path: Path) -> None:
    def page(name: str, rows: list[dict[str, Any]], truncated: bool = False) -> str:
        audit = write_audit(tmp_path / name, rows)
        if name != "incomplete":
            (file,) = (audit / "markers").iterdir()
            (audit / "gone.tar").write_bytes(b"shard")
            marker = {"identity": shard_identity(str(audit / "gone.tar")), "truncated": truncated}
            file.write_text(json.dumps(json.loads(file.read_text()) | marker))
        return build_audit_report(audit)[0].read_text()

    usable, broken = row("a", [1.0, 2.0]), row("b", status="bad_image", error="it is <broken>", sha256=None)
    said = {
        "incomplete": page("incomplete", [usable]),
        "useless": page("useless", [broken]),
        "damaged": page("damaged", [usable, broken], truncated=True),
        "fine": page("fine", [usable, broken]),
    }
    warnings = {
        "incomplete": "This audit is not complete: 0 shards are missing, 0 stale and 1 gone, of 1.",
        "useless": "No sample of 1 can be used; the reasons are below.",
        "damaged": "1 shard is truncated or damaged: samples behind the damage were never seen.",
    }
    for name, text in said.items():
        parts = {
            "incomplete": "is not complete:",
            "useless": "the reasons are below",
            "damaged": "truncated or damaged: ",
        }
        assert [kind for kind, part in parts.items() if part in text] == [name] * (name != "fine"), name
        assert name == "fine" or warnings[name] in text
    assert "it is &lt;broken&gt;" in said["fine"] and "it is <broken>" not in said["fine"]
    assert "2 samples in 1 shards hold 1 distinct images; 1 samples cannot be used." in said["fine"]


def test_pictures_come_from_a_folder_of_images_too(model: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.png").write_bytes(picture(number))
        (tmp_path / "photos" / f"{number}.txt").write_text(f"pair {number}")
    words = ("--data", tmp_path / "photos", "--format", "folder", "--model", model, "--draws", 1)
    assert run("score", *words, "--out", tmp_path / "audit").exit_code == 0
    page, summary = build_audit_report(tmp_path / "audit", top=2)
    assert len(summary.top) == 2 and page.read_text().count("data:image/png") == 2


def test_captions_that_pictures_share_are_shown_with_pictures(tmp_path: Path) -> None:
    data = tmp_path / "photos"
    data.mkdir()
    for number in range(4):
        (data / f"{number}.png").write_bytes(picture(number))
        (data / f"{number}.txt").write_text("<i>one of many" if number else "alone")
    words = ("--data", data, "--format", "folder", "--data-only", "--out", tmp_path / "audit")
    assert run("score", *words).exit_code == 0
    text = build_audit_report(tmp_path / "audit")[0].read_text()
    part = text.split('id="h-captions"')[1].split("</section>")[0]
    assert part.count("data:image/png") == 3 and "&lt;i&gt;one of many" in part and "alone" not in part
    assert '<td data-name="Pictures">3<span' in part
    shared, _ = build_audit_report(tmp_path / "audit", tmp_path / "shared" / "page.html", samples=False)
    assert "one of many" not in shared.read_text() and "data:image" not in shared.read_text()


def test_it_says_in_words_how_many_pairs_stand_out_and_shows_near_duplicates_beside_each_other(audited: Path) -> None:
    page, summary = build_audit_report(audited)
    text = page.read_text()
    assert summary.values["standing_out"] is None and "No pair stands out" in text, "fourteen pairs have no tail"
    summary.values |= {"standing_out": {"pairs": 3, "lowest": 2.5, "next": 1.5, "p_value": 1e-6}, "scored_pairs": 900}
    said = _standing(summary)
    assert (
        said.startswith("3 pairs stand out: their scores are 2.5 or more, the next is 1.5") and "--max-score 2" in said
    )
    summary.values |= {"standing_out": {"pairs": 1, "lowest": 2.5, "next": 1.5, "p_value": 1e-6}}
    assert _standing(summary).startswith("1 pair stands out: its score is 2.5")
    assert len(summary.looks) == summary.values["near_duplicate_groups"] and text.count(
        '<figure class="card"><div'
    ) == len(summary.looks)
    assert all(len({place["content"] for place in look["pictures"]}) > 1 for look in summary.looks)
