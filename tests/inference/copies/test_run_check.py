"""Which pairs of a finished run come back: what is asked, what is compared, and what is said of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch import Tensor

from memsieve.filtering.config import FilterConfig
from memsieve.inference.copies import run_check
from memsieve.inference.copies.checked_run import read_run
from memsieve.inference.copies.pair_pictures import picture_file
from memsieve.inference.copies.run_check import RunCheck, check_run
from memsieve.inference.copies.run_check_page import headline, next_steps, overrule, write_check
from memsieve.inference.generate import GenerateSettings, load_pipeline
from tests.inference.copies.pictures import picture

FAST = GenerateSettings(steps=2, guidance_scale=3.0, seed=0)
MakeRun = Callable[..., Path]


def write_folder(folder: Path, count: int, caption: str, first: int = 0) -> Path:
    folder.mkdir(parents=True)
    for number in range(first, first + count):
        (folder / f"{number:02d}.png").write_bytes(picture(number))
        (folder / f"{number:02d}.txt").write_text(caption.format(number))
    return folder


@pytest.fixture
def make_run(model_folder: Path, tmp_path: Path) -> MakeRun:
    """A run's folder: a tiny base, a model with one bias moved, an image folder and held-out pairs."""

    def make(caption: str = "pair {}", held_out: int = 6, base: bool = True, count: int = 6, **sections: Any) -> Path:
        run = tmp_path / "run"
        run.mkdir()
        data = {"format": "folder", "path": str(write_folder(tmp_path / "train", count, caption)), "resolution": 16}
        data |= {"held_out_fraction": 0.0}
        if held_out:
            folder = write_folder(tmp_path / "held_out", held_out, "unseen {}", 100)
            data["held_out_path"] = str(folder)
        model = {"path": str(model_folder) if base else str(tmp_path / "gone")}
        raw = {"output": str(run), "model": model, "data": data, "filter": {"copy_rate": 0.1}, "train": {"seed": 3}}
        (run / "config.yaml").write_text(yaml.safe_dump({**raw, **sections}))
        pipe = load_pipeline(model_folder)
        with torch.no_grad():
            pipe.unet.conv_out.bias.add_(0.1)
        pipe.save_pretrained(run / "pipeline")
        return run

    return make


def comes_back(monkeypatch: pytest.MonkeyPatch, shown: dict[str, int], run: Path) -> None:
    """Drawings of these captions by the run's model are the pictures of that number: what a model that has learned
    them by heart draws. All others are as they are."""
    draw = run_check.draw_images
    rows = {row.key: row.pixels for row in read_run(run).pairs(64)[0].rows}

    def drawn(pipe: Any, prompts: Sequence[str], count: int, folder: Path, *args: Any, **more: Any) -> Tensor:
        images = draw(pipe, prompts, count, folder, *args, **more).clone()
        for place, prompt in enumerate(prompts) if folder.parent.name == "drawn" else ():
            if prompt in shown:
                key = next(key for key in rows if key.endswith(f"{shown[prompt]:02d}"))
                images[place * count : (place + 1) * count] = rows[key]
        return images

    monkeypatch.setattr(run_check, "draw_images", drawn)


def checked(run: Path, tmp_path: Path, **options: Any) -> RunCheck:
    return check_run(read_run(run), tmp_path / "check", drawings=4, settings=FAST, **options)


def test_pairs_that_come_back_are_named_and_shown_beside_what_is_drawn(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    comes_back(monkeypatch, {"pair 1": 1, "pair 4": 4}, run)
    found = checked(run, tmp_path)
    assert {pair.caption for pair in found.come_back} == {"pair 1", "pair 4"}
    first = found.pairs[0]
    assert (first.hits, first.drawings, first.nearest) == (4, 4, 4) and first.low > 0.35 and first.high == 1.0
    assert found.held_out == 6 and math.isfinite(found.bar) and found.base_own == found.base_own
    assert headline(found).startswith("2 of 6 pairs come back as their own picture oftener than in 10.0% of drawings")
    page = write_check(found, tmp_path / "out").read_text()
    assert page.count('class="pair back"') == 2 and page.count("data:image") == 18
    assert "What to do next" in page and "drawn before" in page and "no base was asked" not in page
    settings = FilterConfig.model_validate(yaml.safe_load(overrule(found))["filter"])
    assert sorted(settings.always_drop) == sorted(pair.key for pair in found.come_back)
    assert picture_file(tmp_path / "out", first.group, "before").is_file()
    told = json.loads((tmp_path / "out" / "check.json").read_text())
    assert told["come_back"] == 2 and len(told["table"]) == 6 and told["held_out"] == 6


def test_another_pairs_picture_is_no_return(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    comes_back(monkeypatch, {"pair 1": 2}, run)
    found = checked(run, tmp_path)
    assert overrule(found) == "" and any("Nothing has to be done" in step for step in next_steps(found))
    assert not found.come_back and next(p for p in found.pairs if p.caption == "pair 1").hits == 0


def test_one_caption_for_all_finds_the_pictures_that_are_drawn(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("sks dog", filter={"copy_rate": 0.3})
    comes_back(monkeypatch, {"sks dog": 3}, run)
    found = checked(run, tmp_path)
    assert [pair.key.endswith("03") for pair in found.come_back] == [True]


def test_what_the_run_knows_of_each_pair_is_beside_it_and_decides_who_is_asked(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    names = list(read_run(run).pairs(64)[0].captions)
    table = {"group": names[:3], "evidence_max": [0.1, 0.9, 0.5], "exposures": [3, 4, 5], "trained": [3, 2, 5],
             "condemned_step": [-1, 7, -1]}  # fmt: skip
    pq.write_table(pa.table(table), run / "groups.parquet")
    found = checked(run, tmp_path, most=2)
    assert {pair.group for pair in found.pairs} == {names[1], names[2]}
    told = next(pair for pair in found.pairs if pair.group == names[1])
    assert (told.trained, told.retired) == (2, 7)
    assert next(pair for pair in found.pairs if pair.group == names[2]).retired is None


def test_a_base_that_is_gone_leaves_the_held_out_pairs_and_without_both_it_is_refused(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(base=False)
    found = checked(run, tmp_path)
    assert found.base_own != found.base_own and found.run.base is None and math.isfinite(found.bar)
    raw = yaml.safe_load((run / "config.yaml").read_text())
    del raw["data"]["held_out_path"]
    (run / "config.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match="neither the model before fine-tuning nor a held-out pair"):
        checked(run, tmp_path)


def test_the_same_call_goes_on_with_what_is_drawn_and_another_model_draws_anew(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    first = checked(run, tmp_path)
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "check").rglob("*") if file.is_file()}
    assert checked(run, tmp_path).pairs == first.pairs
    assert all(file.stat().st_mtime_ns == then for file, then in kept.items() if file.suffix == ".png")
    pipe = load_pipeline(run / "pipeline")
    with torch.no_grad():
        pipe.unet.conv_out.bias.sub_(0.3)
    pipe.save_pretrained(run / "pipeline")
    assert checked(run, tmp_path).pairs != first.pairs


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("config.yaml", "holds no config.yaml, so that it is no training run"),
        ("pipeline", r"holds no model \(none of best, lora, pipeline\)"),
    ],
)
def test_what_is_no_finished_run_is_refused(damage: str, message: str, make_run: MakeRun) -> None:
    run = make_run()
    (run / damage).rename(run / "elsewhere")
    with pytest.raises(ValueError, match=message):
        read_run(run)


def test_the_model_that_the_run_advises_is_checked(make_run: MakeRun) -> None:
    run = make_run()
    (run / "best").mkdir()
    assert read_run(run).model == run / "pipeline"
    (run / "summary.json").write_text(json.dumps({"use": {"folder": "best", "step": 4, "why": "it is"}}))
    assert read_run(run).model == run / "best" and read_run(run, "pipeline").model == run / "pipeline"
    (run / "summary.json").write_text(json.dumps({"use": {"folder": "../../etc", "step": 4, "why": "it is"}}))
    assert read_run(run).model == run / "pipeline", "no way out of the run's folder"
    with pytest.raises(ValueError, match="--model: 'none' is neither a folder"):
        read_run(run, "none")
