"""``memsieve copies``: planted and ordinary prompts drawn, the table of what came back, and the verdicts as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji


def test_each_prompt_is_drawn_as_often_as_asked_and_counted_in_a_table(model: Path, tmp_path: Path) -> None:
    build_openmoji(tmp_path / "data", DatasetPlan(size=16, plant=["2x3"], limit=64))
    words = ["copies", "--model", str(model), "--data", str(tmp_path / "data"), "--seeds", "1"]
    wrong = CliRunner().invoke(app, [*words, "--similarity", "likeness"])
    assert isinstance(wrong.exception, ValueError) and "likeness" in str(wrong.exception)
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "verdicts.json")])
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads((tmp_path / "verdicts.json").read_text())
    counts = {name: one["rate"]["generations"] for name, one in found.items()}
    assert counts["planted"] == 2 and counts == {name: len(one["generations"]) for name, one in found.items()}
    said = " ".join(done.stdout.split())
    for name, one in found.items():
        rate = one["rate"]
        shown = f"{rate['rate']:.2f} │ {rate['low']:.2f} to {rate['high']:.2f}"
        assert f"│ {name} │ {rate['copies']} of {rate['generations']} │ {shown} │" in said
