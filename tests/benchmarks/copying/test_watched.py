"""A run that is judged while it trains: what each look writes, and what comes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.copying import watched
from benchmarks.copying.drawings import Drawing, prompts_of
from benchmarks.copying.watched import DRAWINGS, Watch, WatchedRule, first_copied, first_said
from memsieve.filtering.config import FilterConfig
from memsieve.inference.copies.probe import shard_images

Made = tuple[Path, list[dict[str, Any]]]


def test_a_pair_that_is_drawn_as_itself_is_copied_and_no_look_is_taken_twice(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, truth = made
    prompts = prompts_of(data, Drawing(ordinary=4, held_out=0), 1)
    pictures = {row["pair"]: row["key"] for row in truth if row["part"] == "stream"}
    pixels = dict(shard_images(data / "stream", 32))

    def generate(own: set[str], captions: list[str], count: int, *_: Any, **__: Any) -> torch.Tensor:
        assert captions == prompts.captions and count == DRAWINGS
        noise = torch.rand(len(captions), count, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
        for place, pair in enumerate(prompts.pairs):
            if pair in own:
                noise[place, 3] = pixels[pictures[pair]]
        return noise.flatten(0, 1)

    monkeypatch.setattr(watched, "generate", generate)
    watch = Watch(tmp_path, data, prompts, Drawing(), seed=1)
    watch.look(set(), 0, False)
    watch.look({prompts.pairs[0]}, 4, True)
    watch.look(set(), 4, True)
    looks = watch.looks
    assert [(look["step"], look["said"], look["copied"]) for look in looks] == [
        (0, False, []), (4, True, [prompts.pairs[0]]),
    ]  # fmt: skip
    assert looks[1]["copies"] == pytest.approx(1 / (DRAWINGS * len(prompts)), abs=1e-4)
    assert first_copied(looks) == 4 and first_said(looks) == 4


def test_what_the_base_copies_is_no_first_copy() -> None:
    looks = [{"step": 0, "said": False, "copied": ["a"]}, {"step": 5, "said": False, "copied": ["a"]}]
    assert first_copied(looks) is None and first_said(looks) is None
    assert first_copied([*looks, {"step": 9, "said": False, "copied": ["b"]}]) == 9


def test_the_rule_looks_every_so_often_and_decides_as_ever() -> None:
    from memsieve.filtering.filter import MemorizationFilter

    config = FilterConfig.model_validate({"rule": "recall", "policy": "observe"})
    rule, seen = WatchedRule(config, 3), list[int]()
    rule.look = lambda step, said: seen.append(step)
    sieve = MemorizationFilter(config, rule=rule)
    for _ in range(9):
        sieve.begin_window([])
        sieve.end_window()
    assert seen == [3, 6, 9] and rule.condemned == {}
