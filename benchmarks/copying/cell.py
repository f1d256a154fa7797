"""One cell: a method trained on a stream of one seed, and what came of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks.common import CONFIGS, machine, write_lines
from benchmarks.copying.data import build
from benchmarks.copying.decisions import decisions, thresholds
from benchmarks.copying.drawings import Drawing, Prompts, judged, judges_with, prompts_of
from benchmarks.copying.found import PART, find_groups, table_of
from benchmarks.copying.held_out import held_out_losses
from benchmarks.copying.learned import encoder_at, recognised
from benchmarks.copying.methods import METHODS, Method
from benchmarks.copying.plan import PAPER, TUNED, Cell, Plan
from benchmarks.copying.rivals import LossBelowAverage, RandomDrop
from benchmarks.copying.watched import LOOKS, Watch, WatchedRule
from benchmarks.retrieval.choice import CANDIDATES
from memsieve.filtering.data.decode import to_levels
from memsieve.filtering.rules import Rule
from memsieve.filtering.settings import load_settings
from memsieve.inference.generate import GenerateSettings, generate, load_pipeline
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.session import Session
from memsieve.train.set_up import set_up

__all__ = ["run_cell"]

KEPT: Final = ("steps", "updates", "read", "trained", "dropped", "groups", "condemned_groups", "overfitting", "copies",
               "use", "ended_early", "cpu_seconds_per_step", "wall_seconds_per_step")  # fmt: skip
"""Of a run's summary."""
Note = Callable[[str], None]


def run_cell(plan: Plan, cell: Cell, note: Note) -> dict[str, Any]:
    """Train, measure and write ``cell``; a run that was stopped goes on from its checkpoint.

    Raises:
        ValueError: what the cell needs is not there.
    """
    method, protocol = METHODS[cell.method], plan.protocol
    note(f"{cell.name}: data")
    data = data_of(plan, cell)
    made = build(data, plan.streams[cell.stream], cell.seed)
    groups = find_groups(data, plan.streams[cell.stream].shards) if method.groups else None
    tuned = _tuned(plan, cell)
    run, config = folder_of(plan, cell), config_of(plan, cell, made["rows"]["stream"], tuned)
    found: dict[str, Any] = {
        "hash": plan.hash(cell), "method": cell.method, "stream": cell.stream, "seed": cell.seed,
        "settings": plan.settings(cell), "tuned": tuned, "machine": machine(), "rows": made["rows"],
    }  # fmt: skip
    if groups is not None:
        found |= {"found": groups, "rows": {**made["rows"], PART: groups["rows"]}}
    if method.of:
        found |= {name: value for name, value in _needed(plan, cell).items() if name in KEPT}
    elif method.trained:
        found |= _train(plan, config, cell, tuned, note)
    note(f"{cell.name}: measuring")
    if cell.method in TUNED:
        found["threshold"] = thresholds(run, data, plan.streams[cell.stream].passes, signal=TUNED[cell.method])
    else:
        found |= decisions(run, data, method.part, method.score, table_of(data) if method.groups else None)
        pipeline = _model(run, method, found) if method.trained else protocol.base
        found["held_out"] = held_out_losses(pipeline, config, protocol.held_out_draws)
        found["drawn"] = _drawn(plan, cell, pipeline, data)
    write_lines(plan.file(cell), found)
    if not method.of:
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return found


def folder_of(plan: Plan, cell: Cell) -> Path:
    """Of the run that is measured: the cell's own, or another method's."""
    needed = plan.needs(cell)
    return plan.run_folder(needed if METHODS[cell.method].of and needed is not None else cell)


def _model(run: Path, method: Method, found: dict[str, Any]) -> Path:
    """The last model of a run, or the one that it advises."""
    advised = (found.get("use") or {}).get("folder") if method.advised else None
    return next(run / name for name in (advised, "lora", "pipeline") if name and (run / name).is_dir())


def data_of(plan: Plan, cell: Cell) -> Path:
    """The stream's folder."""
    return plan.work / "data" / f"{cell.stream.replace(' ', '-')}-seed{cell.seed}"


def config_of(plan: Plan, cell: Cell, rows: int, tuned: float | None) -> RunConfig:
    """The run's settings: the method's over the protocol's over a shipped config."""
    method, protocol, stream = METHODS[cell.method], plan.protocol, plan.streams[cell.stream]
    data = data_of(plan, cell)
    steps = protocol.steps or -(-rows * stream.passes // protocol.batch_size)
    dropout = stream.caption_dropout if method.caption_dropout is None else method.caption_dropout
    # The sieve measures held-out pairs on its own schedule, as its config has it.
    beside = [] if method.config == "openmoji_sieve.yaml" else [
        f"filter.held_out_per_window={protocol.held_out_per_window}"]  # fmt: skip
    overrides = [
        f"output={plan.run_folder(cell)}", f"model.path={protocol.base}", f"data.path={data / method.part}",
        f"data.held_out_path={data / 'held_out'}", f"data.held_out_max={protocol.held_out_max}",
        f"data.resolution={protocol.resolution}", f"data.streams={protocol.streams}", *beside,
        f"train.steps={max(round(steps * method.share), 1)}", f"train.seed={cell.seed}",
        f"train.batch_size={protocol.batch_size}", f"train.caption_dropout={dropout}", "train.threads=1",
        f"train.cache={plan.work / 'cache'}", f"optimizer.lr={protocol.lr}", "optimizer.schedule=cosine",
        f"optimizer.warmup_steps={round(protocol.warmup_steps * method.share)}", "optimizer.weight_decay=0.01",
        "validation.every=0", "validation.held_out_pairs=0", "checkpoint.every=250", "checkpoint.keep=1",
        "filter.ledger_kept=true", *method.settings,
    ]  # fmt: skip
    if method.groups and method.part != PART:
        overrides.append(f"data.groups={table_of(data)}")
    if tuned is not None and cell.method in PAPER:
        overrides.append(f"filter.threshold={tuned}")
    return load_settings(RunConfig, CONFIGS / method.config, overrides)


def _tuned(plan: Plan, cell: Cell) -> float | None:
    """The one number of a method that other cells choose: the paper's threshold, the rate of random drops."""
    if plan.needs(cell) is None or METHODS[cell.method].of:
        return None
    result = _needed(plan, cell)
    if cell.method in PAPER:
        return float(result["threshold"][PAPER[cell.method]])
    return float(sum(result["dropped"].values()) / result["read"])


def _needed(plan: Plan, cell: Cell) -> dict[str, Any]:
    needed = plan.needs(cell)
    result = plan.result(needed) if needed is not None else None
    if result is None:
        raise ValueError(f"cell {cell.name} needs {needed.name if needed else '?'} first; name its method too")
    return result


def _train(plan: Plan, config: RunConfig, cell: Cell, tuned: float | None, note: Note) -> dict[str, Any]:
    """Train; the run's summary, and how long each step took: CPU seconds, since other work shares the machine."""
    rule = _rule(cell, tuned)
    if METHODS[cell.method].watched:
        rule = WatchedRule(config.filter, (config.train.steps or 0) // LOOKS)
    session = set_up(config, rule)
    watch = _watch(plan, cell, session, rule) if isinstance(rule, WatchedRule) else None
    before = session.step
    note(f"{cell.name}: training, step {before} of {session.total_steps}")
    wall, cpu = time.perf_counter(), time.process_time()
    summary = fit(session)
    steps = max(summary["steps"] - before, 1)
    if watch is not None:
        summary["watched"] = watch.looks
    return {
        "cpu_seconds_per_step": round((time.process_time() - cpu) / steps, 4),
        "wall_seconds_per_step": round((time.perf_counter() - wall) / steps, 4),
        **{name: summary[name] for name in (*KEPT, "watched") if name in summary},
    }


def _watch(plan: Plan, cell: Cell, session: Session, rule: WatchedRule) -> Watch:
    """Begin to judge the drawings of a run: those of its base first."""
    data, drawing = data_of(plan, cell), plan.protocol.drawing
    watch = Watch(
        session.config.output, data, prompts_of(data, replace(drawing, held_out=0), cell.seed), drawing, cell.seed
    )

    def look(step: int, said: bool) -> None:
        model = session.accelerator.unwrap_model(session.model)
        watch.look(session.denoiser.pipeline(model), step, said)

    rule.look = look
    if not session.step:
        look(0, False)
    return watch


def _rule(cell: Cell, tuned: float | None) -> Rule | None:
    if cell.method == "iet_agc":
        return LossBelowAverage()
    if cell.method == "random_drop":
        assert tuned is not None
        return RandomDrop(tuned, cell.seed)
    return None


def _drawn(plan: Plan, cell: Cell, pipeline: Path, data: Path) -> dict[str, Any]:
    """What the model draws, judged pair by pair; the drawings themselves are kept beside the run."""
    prompts = prompts_of(data, plan.protocol.drawing, cell.seed)
    drawn = _draw(pipeline, prompts, plan.protocol.drawing, cell.seed)
    file = plan.drawn_file(cell)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"pairs": prompts.pairs, "drawn": to_levels(drawn)}, file)
    encoder = encoder_at(plan.judge, plan.streams[cell.stream].limit)
    found = judged(drawn, prompts, data, cell.seed, judges_with(encoder))
    unseen = [i for i, case in enumerate(prompts.cases) if case == "held_out"]
    things = [prompts.things[i] for i in unseen]
    if len(set(things)) >= CANDIDATES:
        captions = [prompts.captions[i] for i in unseen]
        shares = recognised(encoder, drawn[unseen], captions, things, cell.seed)
        for i, share in zip(unseen, shares, strict=True):
            found[prompts.pairs[i]]["recognised"] = round(share, 4)
    return found


def _draw(pipeline: Path, prompts: Prompts, drawing: Drawing, seed: int) -> Tensor:
    """[P, K, 3, H, W] in [-1, 1]."""
    settings = GenerateSettings(
        steps=drawing.steps, batch=24, seed=seed, guidance_scale=drawing.guidance_scale, scheduler="ddim"
    )
    images = generate(load_pipeline(pipeline), prompts.captions, drawing.images, settings, progress=False)
    return images.unflatten(0, (len(prompts), drawing.images))
