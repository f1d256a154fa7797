"""The planted-duplicates demonstration: the same fine-tune without the filter, with it, and with the paper's rule."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji
from memsieve.filtering.files import write_json
from memsieve.filtering.settings import load_settings
from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.probe import DRAWN, ProbeResult, Prompt, judge_for, probe_model, prompts_of
from memsieve.pages.run import build_report
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up
from scripts.demonstration.comparison import GUIDANCE, SEEDS, compare, row_of, show, summarise

ROOT = Path(__file__).resolve().parents[2]
console = Console(stderr=True, emoji=False)


def build_data(out: Path, plant: str) -> Path:
    """The dataset, once."""
    if (out / "dataset.json").is_file():
        return out
    with Progress(console=console) as progress:
        task = progress.add_task("drawing OpenMoji")
        build_openmoji(
            out,
            DatasetPlan(size=32, plant=[plant]),
            overwrite=True,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    return out


def train_one(name: str, config: str, out: Path, data: Path, steps: int, seed: int, extra: list[str]) -> dict[str, Any]:
    """Train one variant, unless its summary is there; the same command resumes a stopped one."""
    run = out / name
    if (run / "summary.json").is_file() and (run / "pipeline").is_dir():
        return dict(json.loads((run / "summary.json").read_text()))
    overrides = [
        f"output={run}",
        f"model.path={ROOT / 'assets' / 'tiny-sd'}",
        f"data.path={data / 'train'}",
        f"data.held_out_path={data / 'held_out'}",
        f"train.steps={steps}",
        f"train.seed={seed}",
        *extra,
    ]
    console.rule(f"{name}: {steps} steps")
    return fit(set_up(load_settings(RunConfig, ROOT / "configs" / "train" / config, overrides)))


def main(
    out: Annotated[Path, typer.Option(help="Folder of the demo.")] = ROOT / "runs" / "demo",
    steps: Annotated[int, typer.Option(help="Training steps of each run.")] = 540,
    paper_steps: Annotated[int, typer.Option(help="Steps of the paper's rule; 0 takes two sevenths.")] = 0,
    plant: Annotated[str, typer.Option(help="PAIRSxREPEATS.")] = "6x2000",
    seed: Annotated[int, typer.Option(help="Of training and generation.")] = 0,
) -> None:
    """Everything from the data to the report; run again, it goes on where it stopped."""
    started = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    data = build_data(out / "data", plant)
    planted, ordinary = prompts_of(data, ordinary=8)
    judge = judge_for(data)
    paper_steps = paper_steps or max(steps * 2 // 7, 1)
    runs = {
        "no filter": ("openmoji.yaml", "unfiltered", steps, ["filter.enabled=false"]),
        "memsieve": ("openmoji.yaml", "filtered", steps, []),
        "paper's rule": ("wen2024_tiny.yaml", "paper", paper_steps, []),
    }
    summaries = {
        name: train_one(folder, config, out, data, count, seed, extra)
        for name, (config, folder, count, extra) in runs.items()
    }
    models = {"base model": str(ROOT / "assets" / "tiny-sd")}
    models |= {name: str(out / folder / "pipeline") for name, (_, folder, _, _) in runs.items()}
    probes = {name: probe(model, planted, judge, name, seed) for name, model in models.items()}
    others = {name: probe(model, ordinary, judge, f"{name}, ordinary prompts", seed) for name, model in models.items()}
    rows = [row_of(name, probes, others, summaries, runs, out, data) for name in models]
    compare(out, rows, planted, data, probes)
    summary = summarise(rows, summaries, out, data, paper_steps, steps, time.perf_counter() - started)
    write_json(out / "summary.json", summary)
    page = build_report(out / "filtered", out / "report.html", comparison=out / "comparison.json")
    show(rows)
    console.print(f"report: {page}\nsummary: {out / 'summary.json'}", highlight=False)


def probe(model: str, prompts: list[Prompt], judge: CopyJudge, name: str, seed: int) -> ProbeResult:
    """Generations of one model, judged."""
    console.print(f"generating: {name}", highlight=False)
    return probe_model(model, prompts, judge, seeds=SEEDS, settings=replace(DRAWN, guidance_scale=GUIDANCE, seed=seed))


if __name__ == "__main__":
    typer.run(main)
