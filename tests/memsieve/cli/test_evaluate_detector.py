"""``memsieve evaluate-detector``: what it prints and leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

from tests.memsieve.cli.on_the_base import BASE, invoke


def test_evaluate_detector(lists: tuple[Path, Path], tmp_path: Path) -> None:
    prompts, ordinary = lists
    out = tmp_path / "e.json"
    text = invoke(
        "evaluate-detector", *BASE, "--memorized", prompts, "--ordinary", ordinary, "--steps", "1,2",
        "--images-per-prompt", "1", "--detector", "magnitude_cosine", "--out", out,
    )  # fmt: skip
    assert "4 memorised prompts in 4 groups" in text and "allows none of them" in text
    found = json.loads(out.read_text())
    assert len(found["results"]) == 2 and found["seconds_per_generation"] > 0
    assert 0 <= found["results"][0]["auc"]["low"] <= found["results"][0]["auc"]["high"] <= 1
