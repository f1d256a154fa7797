"""The guides of audits, read from their pages and run from an empty folder: shards, audit, groups, training."""

from __future__ import annotations

import io
import json
import re
import shlex
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.filtering.audit.group_decisions import FORMAT
from memsieve.filtering.identity.edits import edited
from tests.filtering.audit.test_group_check import Coarse, file_of
from tests.filtering.identity.test_descriptors import scene

ROOT = Path(__file__).resolve().parent.parent


def lines_of(page: str, block: int = 0) -> list[str]:
    """The commands of a page's bash block, one a line."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [line for line in re.findall(r"```bash\n(.*?)```", text, re.S)[block].splitlines() if line.strip()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with shards of forty scenes and three edits of each of the first five."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    pictures = {f"scene{i:02d}": file_of(scene(i, 96)) for i in range(40)}
    for i in range(5):
        for name in ("mirror", "JPEG 30", "half size"):
            pictures[f"scene{i:02d}-{name.replace(' ', '-')}"] = file_of(edited(name, scene(i, 96), [i]))
    for shard in range(2):
        with tarfile.open(tmp_path / "data" / f"{shard:05d}.tar", "w") as tar:
            for key, png in list(pictures.items())[shard::2]:
                for kind, data in (("png", png), ("txt", f"picture of {key[:7]}".encode())):
                    member = tarfile.TarInfo(f"{key}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return tmp_path


def run(line: str, *more: str) -> str:
    result = CliRunner().invoke(app, [*shlex.split(line, comments=True)[1:], *more])
    assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"
    return str(result.output)


@pytest.mark.slow
def test_near_duplicates_are_found_looked_at_and_read_once(folder: Path) -> None:
    """With a descriptor of one's own in the place of SSCD, and the tiny model; the rest is as printed."""
    torch.jit.script(Coarse()).save("coarse.pt")
    Path("coarse.json").write_text(json.dumps({"side": 48, "mean": [0, 0, 0], "std": [1, 1, 1]}))
    score, group, review, decide = lines_of("near-duplicates.md")
    run(score.replace("sscd", "coarse.pt"))
    run(group)
    table = pq.read_table("groups.parquet").to_pylist()
    assert len(table) >= 10, "most edits are found"
    run(review)
    assert Path("groups.html").is_file()
    gone = table[-1]["content"]
    Path("decisions.json").write_text(json.dumps({"format": FORMAT, "split": [gone], "join": []}))
    run(decide)
    assert gone not in pq.read_table("groups.parquet")["content"].to_pylist()
    (shown,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "near-duplicates.md").read_text(), re.S)
    config = yaml.safe_load((ROOT / "configs" / "train" / "openmoji.yaml").read_text())
    config["model"]["path"] = str(ROOT / "assets" / "tiny-sd")
    config["data"] |= {"path": "data", **yaml.safe_load(shown)["data"]}
    config["data"].pop("held_out_path")
    config["filter"] = {"policy": "retire"}  # without held-out pairs
    Path("run.yaml").write_text(yaml.safe_dump(config))
    run("memsieve train run.yaml --set train.steps=6 --set train.threads=1")
    summary = json.loads(Path("runs/openmoji/summary.json").read_text())
    assert summary["not_kept"]["repeat"] > 0


@pytest.mark.slow
def test_scores_before_and_after_a_report_a_keep_list_and_clean_shards(folder: Path) -> None:
    """The models are the tiny one; of a thousand shards there are two."""
    for name in ("base", "finetuned"):
        Path(name).symlink_to(ROOT / "assets" / "tiny-sd")
    for line in lines_of("auditing.md"):
        run(line.replace("00999", "00001"), *(["--draws", "1"] if " score " in line else []))
    assert Path("runs/tuned/report.html").is_file()
    manifest = json.loads(Path("clean/manifest.json").read_text())
    assert sum(manifest["rejected"].values()) + manifest["kept"] == 55
