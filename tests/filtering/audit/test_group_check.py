"""The threshold that is measured on the data: what it finds, and what it would join falsely."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from memsieve.filtering.audit.described import described_blocks
from memsieve.filtering.audit.group_check import check_descriptors, threshold_for
from memsieve.filtering.audit.group_files import GroupsFile
from memsieve.filtering.audit.groups import Alike, group_audit
from memsieve.filtering.audit.query import AuditQuery
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.identity.edits import EDITS, edited
from memsieve.filtering.settings import SettingsError
from tests.filtering.identity.test_descriptors import scene

Audit = Callable[..., Outcome]


class Coarse(torch.nn.Module):
    """The colours of a coarse grid about their mean, and those of its mirror image: knows light edits, and mirrors."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.adaptive_avg_pool2d(x, 6)
        both = small + small.flip(-1)
        return (both - both.mean((2, 3), keepdim=True)).flatten(1)


def file_of(image: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")  # type: ignore[attr-defined]
    return stream.getvalue()


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """Forty scenes, and of the first five three edits each."""
    found = {f"scene{i:02d}": file_of(scene(i, 96)) for i in range(40)}
    for i in range(5):
        for name in ("mirror", "JPEG 30", "half size"):
            found[f"scene{i:02d} {name.replace(' ', '-')}"] = file_of(edited(name, scene(i, 96), [i]))
    return found


@pytest.fixture
def run(audit: Audit, pictures: dict[str, bytes], tmp_path: Path) -> Path:
    torch.jit.script(Coarse()).save(str(tmp_path / "coarse.pt"))
    (tmp_path / "coarse.json").write_text(json.dumps({"side": 48, "mean": [0, 0, 0], "std": [1, 1, 1]}))
    (tmp_path / "data").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "data" / f"{shard}.tar", "w") as tar:
            for key, image in list(pictures.items())[shard::2]:
                for suffix, data in (("png", image), ("txt", b"a scene")):
                    info = tarfile.TarInfo(f"{key.replace(' ', '_')}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    audit(tmp_path / "data", tmp_path / "run", model=False, describe=[str(tmp_path / "coarse.pt")])
    return tmp_path / "run"


def test_the_threshold_is_that_of_different_pictures_whatever_near_duplicates_there_are() -> None:
    rng = np.random.default_rng(0)
    different = 0.3 + 0.05 * rng.gumbel(size=4000)
    alone, mixed = threshold_for(different, 0.01), threshold_for(np.append(different, np.full(1000, 0.98)), 0.01)
    assert 0.005 < (different > alone).mean() < 0.02
    assert 0.001 < (different > mixed).mean() < 0.02 and mixed < 0.9
    assert threshold_for(different, 0.001) > alone


def test_many_near_duplicates_are_told_by_what_edits_are_like() -> None:
    rng = np.random.default_rng(1)
    different, edits = 0.3 + 0.05 * rng.gumbel(size=2000), 0.98 - 0.05 * rng.exponential(size=5000)
    mixed = np.append(different, rng.choice(edits, 3000))
    assert threshold_for(mixed, 0.01) > 0.98, "most have a near-duplicate, and the median is one of them"
    assert 0.5 < threshold_for(mixed, 0.01, edits) < 0.7 and np.mean(edits > 0.7) > 0.99
    assert 0.005 < (different > threshold_for(different, 0.01, edits)).mean() < 0.02


def test_pictures_of_several_kinds_do_not_widen_the_tail() -> None:
    rng = np.random.default_rng(3)
    kinds = [place + 0.03 * rng.gumbel(size=1000) for place in (0.1, 0.15, 0.3, 0.32)]
    different, edits = np.concatenate(kinds), 0.98 - 0.05 * rng.exponential(size=5000)
    least = threshold_for(different, 0.01, edits)
    assert np.mean(different >= least) < 0.02 and np.mean(edits >= least) > 0.98
    assert np.mean(edits >= threshold_for(different, 0.01)) < 0.5, (
        "the lower half is of one kind, the median of another"
    )


def test_a_descriptor_that_finds_different_pictures_as_like_as_edits_joins_none_the_more() -> None:
    rng = np.random.default_rng(2)
    different, edits = 0.8 + 0.05 * rng.gumbel(size=4000), 0.85 + 0.05 * rng.normal(size=5000)
    # A quarter and more of the different pictures would be left out, if the fit were believed.
    assert (different > np.quantile(edits, 0.25)).mean() > 0.25
    assert (different > threshold_for(different, 0.01, edits)).mean() < 0.02


def test_the_check_finds_what_a_descriptor_finds(run: Path) -> None:
    with AuditQuery() as query:
        [found] = check_descriptors(query, query.add("audit", run), pictures=40, false_joins=0.02)
    assert found.by == "coarse" and found.kind == "floats" and found.pictures == 40
    assert set(found.recall) == set(EDITS)
    assert min(found.recall[name] for name in ("mirror", "JPEG 30", "half size")) > 0.9 > found.recall["crop 25 %"]
    # Five scenes and their edits are near-duplicates of each other: the sample holds some of them.
    assert 0.05 < found.joined < 0.6 and len(found.nearest) == 40


def test_groups_by_a_descriptor_are_the_pictures_and_their_edits(
    run: Path, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    found = group_audit(run, tmp_path / "groups.parquet", Alike("coarse", 0.97))
    table = pq.read_table(tmp_path / "groups.parquet")
    names = {content_id(image): key for key, image in pictures.items()}
    rows = [(names[r["content"]], names[r["group"]], r["likeness"]) for r in table.to_pylist()]
    assert {content.split()[0] for content, _, _ in rows} == {f"scene{i:02d}" for i in range(5)}
    assert all(content.split()[0] == group.split()[0] for content, group, _ in rows)
    assert (found.images, found.joining, found.joined, found.groups, found.largest) == (55, 15, 20, 5, 4)
    assert all((likeness > 0.999) == (content == group) or likeness >= 0.969 for content, group, likeness in rows)
    assert set(table["descriptor"].to_pylist()) == {"coarse"} and set(table["threshold"].to_pylist()) == {0.97}
    made = GroupsFile.read(tmp_path / "groups.parquet", "--onto").made
    assert made.alike == Alike("coarse", 0.97) and len(made.identity) == 64 and len(made.audits) == 1


def test_rows_come_once_an_image_in_the_audits_order(run: Path, pictures: dict[str, bytes]) -> None:
    with AuditQuery() as query:
        rows = query.add("audit", run)
        blocks = list(described_blocks(query, rows, "coarse"))
    names = [name for part, _ in blocks for name in part]
    keys = list(pictures)
    assert names == [content_id(pictures[key]) for key in (*keys[::2], *keys[1::2])]
    assert sum(len(values) for _, values in blocks) == 55 and blocks[0][1].shape[1] == 108


@pytest.mark.parametrize(
    ("alike", "said"),
    [
        (Alike("sscd", 0.7), r"--by sscd: the audit has no such descriptor \(it has phash, coarse\)"),
        (Alike("coarse", 1.5), r"--threshold = 1.5: of coarse it must be a cosine"),
    ],
)
def test_what_cannot_be_grouped_is_said(run: Path, tmp_path: Path, alike: Alike, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        group_audit(run, tmp_path / "groups.parquet", alike)


def test_data_that_is_gone_and_audits_without_descriptors_are_said(run: Path, audit: Audit, tmp_path: Path) -> None:
    audit(tmp_path / "data", tmp_path / "plain", model=False)
    with AuditQuery() as query, pytest.raises(SettingsError, match="score the audit with --describe"):
        check_descriptors(query, query.add("audit", tmp_path / "plain"))
    for file in (tmp_path / "data").iterdir():
        file.unlink()
    with AuditQuery() as query, pytest.raises(SettingsError, match="is the data still where it was audited"):
        check_descriptors(query, query.add("audit", run))
