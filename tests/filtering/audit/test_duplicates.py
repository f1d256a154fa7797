"""What samples share: an image, a look, a caption, a key."""

from __future__ import annotations

from pathlib import Path

from memsieve.filtering.audit.duplicates import shared_by
from memsieve.filtering.audit.query import AuditQuery
from tests.filtering.audit.asked import added
from tests.filtering.audit.written import row, sha256


def test_what_is_counted_and_what_is_shown(tmp_path: Path) -> None:
    looks = {"a": "0f" * 8, "b": "0f" * 8, "c": "f0" * 8}
    rows = [row(name, phash=looks[name]) for name in ("a", "b", "a", "c", "b", "a")]
    rows[2] |= {"caption": "another", "caption_hash": "another"}
    rows[3] |= {"caption_hash": rows[1]["caption_hash"], "key": "alone"}
    rows.append(row("broken", sha256=None, phash=None, caption_hash=None, status="bad_image"))
    with AuditQuery() as query:
        shared = shared_by(query, added(query, "audit", tmp_path, *rows))
    assert shared.counts == {
        "duplicate_groups": 2, "duplicate_samples": 3, "near_duplicate_groups": 1, "captions_of_several_images": 1,
        "repeated_keys": 2,
    }  # fmt: skip
    assert [(group["sha256"], group["copies"], group["captions"]) for group in shared.groups] == [
        (sha256("a"), 3, 2),
        (sha256("b"), 2, 1),
    ]
    assert shared.groups[0]["caption"] == "a a" and shared.groups[0]["keys"] == ["a", "a", "a"]


def test_pictures_without_structure_are_no_near_duplicates(tmp_path: Path) -> None:
    with AuditQuery() as query:
        blank = (row(name, phash="8000000000000000") for name in ("a", "b", "c"))
        assert shared_by(query, added(query, "audit", tmp_path, *blank)).counts["near_duplicate_groups"] == 0


def test_captions_that_most_different_images_share_come_first_with_some_of_them(tmp_path: Path) -> None:
    rows = [row(f"t{i:02d}", caption="template", caption_hash="T") for i in range(12)]
    rows += [row("t00", caption="template", caption_hash="T")] * 3
    rows += [row("x", caption="two", caption_hash="2"), row("y", caption="two", caption_hash="2")]
    rows += [row("z", caption="one image", caption_hash="1")] * 5
    rows += [row("e", caption="", caption_hash="E"), row("f", caption="", caption_hash="E")]
    with AuditQuery() as query:
        shared = shared_by(query, added(query, "audit", tmp_path, *rows))
    assert [(one["caption"], one["images"], one["samples"]) for one in shared.captions] == [
        ("template", 12, 15),
        ("two", 2, 2),
    ]
    first, second = ([place["content"] for place in one["pictures"]] for one in shared.captions)
    assert first == [f"t{i:02d}".encode().hex().ljust(32, "0") for i in range(8)]
    assert second == [name.encode().hex().ljust(32, "0") for name in "xy"]
    assert shared.captions[0]["pictures"][3] == {"content": first[3], "shard": "gone.tar", "index": 3, "part": 0}
