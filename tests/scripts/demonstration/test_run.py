"""The demonstration, small: from the data to the report, resumed, with the same summary fields as ever."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from memsieve.filtering.data.keep_list import KeepList
from memsieve.filtering.data.openmoji import DatasetPlan
from scripts.demonstration import run
from scripts.demonstration.run import build_data, deduplicated, main, variants

FIELDS = {"copy_rate_base", "copy_rate_unfiltered", "copy_rate_dedup", "copy_rate_filtered", "copy_rate_once",
          "copy_rate_paper",
          "heldout_loss_unfiltered", "heldout_loss_dedup", "heldout_loss_filtered", "heldout_loss_once",
          "heldout_loss_paper",
          "planted_groups_dropped_fraction", "clean_groups_dropped_fraction", "step_seconds_unfiltered",
          "step_seconds_filtered", "steps", "paper_steps", "read", "trained", "dropped", "failed", "held_out",
          "seconds", "torch_threads"}  # fmt: skip


def test_all_but_the_papers_rule_take_equal_steps(tmp_path: Path) -> None:
    found = variants(540, 154, tmp_path)
    steps = {variant.name: variant.steps for variant in found}
    assert steps == {"no filter": 540, "exact dedup": 540, "memsieve": 540, "memsieve, once": 540, "paper's rule": 154}
    alone, once = found[2:4]
    assert (once.config, once.settings) == (alone.config, [*alone.settings, "data.repeats=once"])
    assert len({variant.folder for variant in found}) == 5


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_from_the_data_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "DatasetPlan", partial(DatasetPlan, limit=700))
    monkeypatch.setattr(run, "DRAWN", replace(run.DRAWN, steps=2))
    out = tmp_path / "demo"
    main(out, steps=4, paper_steps=2, plant="2x30", seed=0)
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary) >= FIELDS and summary["steps"] == 4 and summary["paper_steps"] == 2
    rows = json.loads((out / "comparison.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["base model", "no filter", "exact dedup", "memsieve", "memsieve, once",
                                         "paper's rule"]  # fmt: skip
    assert [row.get("steps") for row in rows] == [None, 4, 4, 4, 4, 2]
    once, alone = (json.loads((out / name / "summary.json").read_text()) for name in ("once", "filtered"))
    assert once["not_kept"]["repeat"] > 0 and not alone["not_kept"].get("repeat")
    assert (out / "report.html").stat().st_size > 10_000 and (out / "comparison.png").is_file()
    data = build_data(out / "data", "2x30")
    keep = deduplicated(out, data)
    truth = pq.read_table(data / "truth.parquet").to_pylist()
    kept = pq.read_table(keep).filter(pq.read_table(keep)["keep"])["sha256"].to_pylist()
    assert sorted(sha[:32] for sha in kept) == sorted({row["group"] for row in truth if row["split"] == "train"})
    assert KeepList(keep).reasons
    before = {file: file.stat().st_mtime for file in out.glob("*/summary.json")}
    assert len(before) == 5
    main(out, steps=4, paper_steps=2, plant="2x30", seed=0)
    after = {file: file.stat().st_mtime for file in out.glob("*/summary.json")}
    assert after == before, "what is there is not run again"
