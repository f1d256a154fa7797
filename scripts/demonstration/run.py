"""The planted-duplicates demonstration: the same fine-tune without a filter, after exact deduplication, with the
filter alone, with the filter after repeats are read once a pass, and with the paper's rule."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.keep_list_files import write_selection
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.audit.select import Rule, select_rows
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

ROOT: Final = Path(__file__).resolve().parents[2]
MODEL: Final = ROOT / "assets" / "tiny-icons"
"""It has never seen OpenMoji: what comes back was learned in the runs."""
SIZE: Final = 64
"""Side of the pictures, in pixels."""
TAU: Final = 3.9
"""The paper's threshold: the base's 95th percentile on held-out pairs, all t together, as in wen2024_tiny.yaml."""
console = Console(stderr=True, emoji=False)


@dataclass(frozen=True, slots=True)
class Variant:
    """A fine-tune: its name in the comparison, its folder, a shipped config, and settings laid over it."""

    name: str
    folder: str
    config: str
    steps: int
    settings: list[str] = field(default_factory=list)


def build_data(out: Path, plant: str) -> Path:
    """The dataset, once."""
    if (out / "dataset.json").is_file():
        return out
    with Progress(console=console) as progress:
        task = progress.add_task("drawing OpenMoji")
        build_openmoji(
            out,
            DatasetPlan(size=SIZE, plant=[plant]),
            overwrite=True,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    return out


def deduplicated(out: Path, data: Path) -> Path:
    """A keep-list of the first of each image's copies, as ``memsieve audit`` makes it without a model."""
    keep = out / "dedup.parquet"
    if not keep.is_file():
        shards = {"path": str(data / "train"), "resolution": SIZE}
        score_shards(AuditConfig.model_validate({"data": shards, "model": None}), out / "audit")
        with select_rows(out / "audit", Rule(dedup="sha256")) as selection:
            write_selection(selection, keep)
    return keep


def train_one(variant: Variant, out: Path, data: Path, seed: int) -> dict[str, Any]:
    """Train one variant, unless its summary is there; the same command resumes a stopped one."""
    run = out / variant.folder
    if (run / "summary.json").is_file() and (run / "pipeline").is_dir():
        return dict(json.loads((run / "summary.json").read_text()))
    overrides = [
        f"output={run}",
        f"model.path={MODEL}",
        f"data.path={data / 'train'}",
        f"data.held_out_path={data / 'held_out'}",
        f"data.resolution={SIZE}",
        f"train.cache={out / 'cache'}",
        f"train.steps={variant.steps}",
        f"train.seed={seed}",
        *variant.settings,
    ]
    console.rule(f"{variant.name}: {variant.steps} steps")
    return fit(set_up(load_settings(RunConfig, ROOT / "configs" / "train" / variant.config, overrides)))


def variants(steps: int, paper_steps: int, keep: Path) -> list[Variant]:
    """What is compared; all but the paper's rule take the same number of steps."""
    off = ["filter.enabled=false"]
    return [
        Variant("no filter", "unfiltered", "openmoji.yaml", steps, off),
        Variant("exact dedup", "dedup", "openmoji.yaml", steps, [*off, f"data.keep_list={keep}"]),
        Variant("memsieve", "filtered", "openmoji.yaml", steps),
        Variant("memsieve, once", "once", "openmoji.yaml", steps, ["data.repeats=once"]),
        Variant("paper's rule", "paper", "wen2024_tiny.yaml", paper_steps, [f"filter.threshold={TAU}"]),
    ]


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
    runs = variants(steps, paper_steps, deduplicated(out, data))
    summaries = {variant.name: train_one(variant, out, data, seed) for variant in runs}
    models = {"base model": str(MODEL), **{variant.name: str(out / variant.folder / "pipeline") for variant in runs}}
    probes = {name: probe(model, planted, judge, name, seed) for name, model in models.items()}
    others = {name: probe(model, ordinary, judge, f"{name}, ordinary prompts", seed) for name, model in models.items()}
    folders = {variant.name: out / variant.folder for variant in runs}
    rows = [row_of(name, probes, others, summaries, folders, data) for name in models]
    compare(out, rows, planted, data, probes)
    summary = summarise(rows, summaries, paper_steps, steps, time.perf_counter() - started)
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
