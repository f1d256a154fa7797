"""The report of a run: nothing loaded from outside, nothing unescaped, and a page whatever is missing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from memsieve.inference.copies.pair_pictures import write_picture
from memsieve.pages.run import build_report
from memsieve.pages.run_data import LEDGER

HOSTILE = "<script>alert(1)</script>"
CAPTIONS = [HOSTILE, "a red apple", "", "clock face, three o'clock", '"quoted" & <b>bold</b>', None]


def write_run(run: Path, *, steps: int = 400, groups: int = 40, planted: int = 6, lost: int = 0) -> Path:
    """A made-up run: ``planted`` groups gather evidence and are condemned; ``lost`` samples are not accounted for."""
    random = np.random.default_rng(0)
    for name in ("ledger", "thumbnails", "samples"):
        (run / name).mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text("seed: 3\ntracking:\n  wandb_api_key: abc123\n  tokenizer: clip\nname: <i>x</i>\n")
    every = np.arange(1, steps + 1)
    with (run / "metrics.jsonl").open("w") as file:
        for step in every.tolist():
            row: dict[str, Any] = {"step": step, "time": float(step)}
            row["train/loss"] = 0.2 + np.exp(-step / 60) + random.normal(0, 0.05)
            row["mem/dropped_frac"] = float(np.clip((step - 150) / 900, 0, 0.3) * random.uniform(0.4, 1.6))
            row["mem/magnitude_mean"] = 1 + step / steps + random.normal(0, 0.1)
            row["mem/magnitude_p95"] = 2 + 2 * step / steps + random.normal(0, 0.2)
            if step % 50 == 0:
                row["val/heldout_loss"] = 0.3 + np.exp(-step / 60) + step / 8000
            file.write(json.dumps(row) + "\n")
        file.write('{"step": 401, "train/lo')
    condemned = [150 + 20 * number for number in range(planted)]
    ledger: list[dict[str, Any]] = []
    for number, start in enumerate(condemned):
        for visit in range(start, steps, 5):
            ledger.append({
                "step": visit, "key": f"planted-{number}-{visit % 3}", "shard": "a.tar", "group": f"g{number}",
                "action": "drop", "reason": "condemned", "timestep": int(random.integers(0, 1000)), "weight": 0.0,
                "magnitude": float(random.gamma(9, 0.4)), "evidence": 9.0 + number, "threshold": 7.5, "p_value": 0.004,
            })  # fmt: skip
    for visit in range(0, steps, 2):
        ledger.append({
            "step": visit, "key": f"h{visit % 20}", "group": f"held{visit % 20}", "action": "held_out",
            "timestep": int(random.integers(0, 1000)), "magnitude": float(random.gamma(9, 0.2)),
        })  # fmt: skip
    ledger.append({"step": 7, "key": "broken-1", "shard": "b.tar", "action": "failed", "error": "not an image: <b>"})
    schema = pa.schema(list(LEDGER.items()))
    half = len(ledger) // 2
    for part, rows in enumerate((ledger[:half], ledger[half:])):
        pq.write_table(pa.Table.from_pylist(rows, schema), run / "ledger" / f"part-{part}.parquet")
    table, evidence = [], []
    for number in range(groups):
        caught = number < planted
        dropped = sum(row["action"] == "drop" and row["group"] == f"g{number}" for row in ledger)
        top = 9.0 + number if caught else float(random.uniform(0, 7))
        table.append({
            "group": f"g{number}", "key": f"planted-{number}-0" if caught else f"plain-{number}", "shard": "a.tar",
            "caption": CAPTIONS[number % len(CAPTIONS)], "exposures": 80 + number + dropped, "trained": 80 + number,
            "scored": 30, "evidence": top * 0.9, "evidence_max": top, "p_value": 0.004 if caught else 0.2,
            "condemned_step": condemned[number] if caught else -1, "dropped": dropped, "magnitude_mean": 2.0,
        })  # fmt: skip
        picture = random.integers(0, 255, (4, 4, 3)).astype(np.uint8)
        if number != 2:
            Image.fromarray(picture).resize((64, 64)).save(run / "thumbnails" / f"g{number}.png")
        if number < planted + 6:
            walk = top * np.minimum(1, every[::10] / (condemned[number] if caught else steps))
            evidence += [
                {"step": int(step), "group": f"g{number}", "evidence": float(value), "threshold": 7.5}
                for step, value in zip(every[::10], walk + random.normal(0, 0.2, len(walk)), strict=True)
            ]
    pq.write_table(pa.Table.from_pylist(table), run / "groups.parquet")
    pq.write_table(pa.Table.from_pylist(evidence), run / "evidence.parquet")
    Image.new("RGB", (320, 80), "teal").save(run / "samples" / "step-000400.png")
    drops = sum(row["action"] == "drop" for row in ledger)
    trained = 5000
    summary = {"read": trained + drops + 1 + 200 + 3 + lost, "trained": trained, "dropped": {"condemned": drops},
               "failed": {"not an image": 1}, "held_out": 200, "remainder": 3, "skipped_steps": 0, "steps": steps,
               "step_seconds_median": 0.31, "heldout_loss": 0.3512, "seed": 3, "heldout_groups": 20}  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    return run


class Loads(HTMLParser):
    """Everything a page would load or run, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                self.loads.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_report(run, tmp_path_factory.mktemp("out") / "page.html").read_text()


def test_self_contained_and_escaped(page: str) -> None:
    parser = Loads()
    parser.feed(page)
    assert parser.loads and all(value.startswith("data:image/") for value in parser.loads)
    assert parser.scripts == 2 and not parser.handlers
    assert HOSTILE not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<b>bold" not in page and "<i>x</i>" not in page and "not an image: <b>" not in page
    assert not re.search(r"url\(|@import|https?://", page)


def test_what_it_says(page: str, run: Path) -> None:
    assert "The filter condemned 6 of 40 groups, the first at step 150, after 80 exposures." in page
    assert '<span class="ok">OK</span>' in page and "MISMATCH" not in page and "which agrees" in page
    assert "At step 150 its evidence was 9, the bar 7.5. Of clean pairs 0.4\u00a0% get so far (p = 0.004)." in page
    assert "and 2 more keys" in page and "no picture" in page
    assert "broken-1" in page and "Near misses" in page
    assert "line(s) could not be read" in page
    assert page.count("<figure") == 6 and "not recorded in this run" not in page
    assert "abc123" not in page and "tokenizer: clip" in page


def test_every_key_of_a_group_can_be_exported(page: str) -> None:
    found = re.search(r'<script type="application/json" id="keys">(.*?)</script>', page, re.S)
    assert found is not None
    keys = json.loads(found[1])
    assert sorted(keys["g0"]) == ["planted-0-0", "planted-0-1", "planted-0-2"]
    assert page.count('data-list="never"') == 6 and page.count('data-list="always"') == 12


def test_samples_that_are_not_accounted_for(tmp_path: Path) -> None:
    text = build_report(write_run(tmp_path / "run", lost=17)).read_text()
    assert '<span class="mismatch">MISMATCH</span>' in text and "17 unaccounted for" in text
    assert '<span class="ok">' not in text


FILES = ["config.yaml", "metrics.jsonl", "summary.json", "groups.parquet", "evidence.parquet", "ledger"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(run: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / name) if name == "ledger" else (copy / name).unlink()
    assert f"{name} is missing" in build_report(copy).read_text()


@pytest.mark.parametrize("name", [*FILES[1:5], "ledger/part-0.parquet", "thumbnails/g1.png"])
def test_a_broken_file_does_no_harm(run: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / name).write_bytes(b"\x00not what it was\n")
    text = build_report(copy).read_text()
    assert "no picture" in text if name.startswith("thumb") else Path(name).name in text


@pytest.mark.parametrize("name", FILES)
def test_one_file_alone_is_enough(run: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "run"
    copy.mkdir()
    (shutil.copytree if name == "ledger" else shutil.copy)(run / name, copy / name)
    if name in ("evidence.parquet", "config.yaml"):
        with pytest.raises(ValueError, match="not a training run"):
            build_report(copy)
    else:
        assert build_report(copy) == copy / "report.html"


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a training run"):
        build_report(tmp_path)
    with pytest.raises(ValueError, match="not a folder"):
        build_report(tmp_path / "nowhere")


def test_pictures_outside_the_run_stay_outside(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", planted=1, groups=2)
    Image.new("RGB", (8, 8)).save(tmp_path / "private.png")
    table = pq.read_table(run / "groups.parquet").to_pylist()
    table[0]["group"] = "../../private"
    pq.write_table(pa.Table.from_pylist(table), run / "groups.parquet")
    (run / "comparison.json").write_text(json.dumps({"rows": [], "picture": "../private.png"}))
    text = build_report(run).read_text()
    assert "no picture" in text and "There is no comparison picture" in text


def test_comparison_on_top(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    rows = [{"name": "unfiltered", "copy_rate": 0.5, "low": 0.3, "high": 0.7, "exposures": 236},
            {"name": HOSTILE, "copy_rate": {"rate": 0.04, "low": 0.0, "high": 0.11}},
            {"name": "paper", "copy_rate": None}]  # fmt: skip
    (copy / "comparison.json").write_text(json.dumps({"rows": rows}))
    Image.new("RGB", (90, 30), "navy").save(copy / "comparison.png")
    text = build_report(copy).read_text()
    assert text.index("unfiltered") < text.index("Where every sample went")
    assert "30\u00a0% to 70\u00a0%" in text and "exposures 236" in text and HOSTILE not in text
    with pytest.raises(ValueError, match="could not be read"):
        build_report(copy, comparison=tmp_path / "none.json")


def test_a_page_with_a_comparison_is_written_over_by_no_other(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for name in ("ranks", "seeds"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"title": name, "rows": [{"name": name, "copy_rate": 0.5}]}))
    first = build_report(copy, comparison=tmp_path / "ranks.json")
    assert first == copy / "report-ranks.html" and build_report(copy) == copy / "report.html"
    assert build_report(copy, comparison=tmp_path / "ranks.json") == first, "its own page is written anew"
    for other in (tmp_path / "seeds.json", None):
        with pytest.raises(ValueError, match="--out: .*report-ranks.html' shows another comparison"):
            build_report(copy, first, other)
    assert "ranks" in first.read_text() and build_report(copy, comparison=tmp_path / "seeds.json") != first


def test_drawings_of_a_check_stand_beside_the_picture(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert "memsieve check" in build_report(copy).read_text()
    for when in ("before", "now"):
        write_picture(copy / "check", "g1", when, torch.zeros(3, 8, 8))
    (copy / "check" / "check.json").write_text("{}")
    text = build_report(copy).read_text()
    assert text.count("what the model before fine-tuning draws for it") == 1
    assert text.count("what the model draws for it at the end") == 1 and "memsieve check" not in text


def test_a_run_that_condemns_everything_is_warned_of(tmp_path: Path) -> None:
    assert "overfitting as a whole" in build_report(write_run(tmp_path / "run", groups=8)).read_text()


def test_a_run_that_asked_its_model_says_whether_it_copies_and_shows_every_pair_beside_what_is_drawn(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run", steps=60, groups=20, planted=1)
    with (run / "metrics.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"step": 60, "mem/pairs": 20.0, "mem/copy_rate": 0.1, "mem/retired_pairs": 1.0}))
    summary = json.loads((run / "summary.json").read_text())
    use = {"folder": "best", "step": 40, "why": "2 of 20 pairs <b>have come back</b>"}
    (run / "summary.json").write_text(json.dumps({**summary, "use": use, "copies": True, "overfitting": False}))
    (run / "drawn").mkdir()
    Image.new("RGB", (16, 16), "red").save(run / "drawn" / "g5.png")
    told = {"g5": {"hits": 2, "drawings": 8, "low": 0.03, "high": 0.65}}
    (run / "recall.json").write_text(json.dumps(told))
    page = build_report(run).read_text()
    text = " ".join(page.split())
    assert "It copies. It does not overfit. Use best (step 40): 2 of 20 pairs &lt;b&gt;have come back" in text
    assert 'class="box bad">It copies.' in text and re.search(r"comes back in 2 of 8 \(3 % to 65 %\)", text)
    assert text.count("what the model draws for it at the end") == 1 and text.count("not drawn") == 19
    assert "All other pairs" in text and "Pairs that came back" in text and "not recorded in this run" not in text
    (run / "recall.json").write_text('{"g5": {"hits": "many"}}')
    assert "recall.json could not be read" in build_report(run).read_text()
    (run / "summary.json").write_text(json.dumps({**summary, "use": use, "copies": False, "overfitting": None}))
    text = " ".join(build_report(run).read_text().split())
    assert 'class="box">It does not copy. Nobody knows whether it overfits. Use best' in text
    (run / "summary.json").write_text(json.dumps({**summary, "use": use, "copies": False, "overfitting": False}))
    assert 'class="box good">It does not copy.' in build_report(run).read_text()
