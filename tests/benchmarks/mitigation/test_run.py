"""The benchmark from beginning to end on a tiny model: every way, resumed, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.detection import alignment
from benchmarks.mitigation import run
from benchmarks.mitigation.ways import NONE, WAYS
from memsieve.inference.generate import load_pipeline
from tests.benchmarks.planted_data import planted_data
from tests.inference.tuned import moved


@pytest.fixture(scope="module")
def measured(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A model beside the one that it was made of; it copies nothing."""
    out = tmp_path_factory.mktemp("mitigation")
    data = planted_data(out / "data", [(2, 6)], ordinary=12, held_out=100)
    moved(load_pipeline(model)).save_pretrained(out / "tuned", safe_serialization=True)
    options: dict[str, Any] = {
        "base": model, "prompts": None, "out": out, "page": out / "page.md", "images": 2, "steps": 4, "ordinary": 8,
        "updates": 1,
    }  # fmt: skip
    threads = torch.get_num_threads()  # the command sets them for its process
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alignment, "RANK", 6)
        patch.setattr(alignment, "WIDTH", 4)
        run.main(out / "tuned", data, "tiny", **options)
        first = json.loads((out / "mitigate-tiny.json").read_text())
        del first["ways"]["delay"]
        (out / "mitigate-tiny.json").write_text(json.dumps(first))
        run.main(out / "tuned", data, "tiny", **options)  # goes on with the way that is missing
    torch.set_num_threads(threads)
    return out, json.loads((out / "mitigate-tiny.json").read_text())


@pytest.mark.slow
def test_every_way_is_measured_for_every_prompt(measured: tuple[Path, dict[str, Any]]) -> None:
    _, found = measured
    assert set(found["ways"]) == set(WAYS) and len(found["asked"]["prompts"]) == 2
    for way, row in found["ways"].items():
        assert len(row["copies"]) == len(row["own"]) == len(row["alignment"]) == 2, way
        assert (row["attacked"] is None) == ("random token" in way), "no words can be put into an embedding"
    assert len(found["levels"]["whole"]) == 4 and all(value > 0 for value in found["levels"]["whole"])


@pytest.mark.slow
def test_the_page_holds_every_way_and_says_where_nothing_copies(measured: tuple[Path, dict[str, Any]]) -> None:
    out, found = measured
    page = (out / "page.md").read_text()
    assert all(f"| {way} |" in page for way in WAYS) and "## `tiny`: 2 prompts" in page
    assert not any(found["ways"][NONE]["copies"]) and "nothing can be stopped" in page


def test_what_cannot_be_measured_is_refused(model: Path, tmp_path: Path) -> None:
    data = planted_data(tmp_path / "data", [(1, 3)], ordinary=4, held_out=4)
    options: dict[str, Any] = {
        "prompts": None, "out": tmp_path, "page": tmp_path / "p.md", "images": 1, "steps": 2, "ordinary": 4,
        "updates": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match="--base: .* does not say what it was fine-tuned from; name it"):
        run.main(model, data, "x", base=None, **options)
    (tmp_path / "p.txt").write_text("nobody's caption\n")
    with pytest.raises(ValueError, match="--prompts: 'nobody's caption' is the caption of no planted pair"):
        run.main(model, data, "x", base=model, **{**options, "prompts": tmp_path / "p.txt"})
