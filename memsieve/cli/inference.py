"""The commands that check a finished model's prompts: detect, evaluate-detector, explain, minimize."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import memsieve.cli.verify as cli_verify
from memsieve.cli.common import (
    Batch,
    Device,
    Dtype,
    Guidance,
    Model,
    Scheduler,
    Seed,
    numbers,
    open_for,
    plain,
    say_unread,
    usable,
    warn,
)
from memsieve.cli.common import out_console as _out
from memsieve.filtering.files import write_json
from memsieve.trackers.checks import Wandb, WandbSamples, upload_detection

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("detect")(detect)
    app.command("evaluate-detector")(evaluate)
    app.command("explain")(explain)
    app.command("minimize")(minimize)
    cli_verify.register(app)


def detect(
    model: Model,
    prompts: Annotated[
        Path, typer.Option(help="A .txt, .jsonl, .json, .csv, .tsv or .parquet file of prompts, or a folder of shards.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/detect"),
    ordinary: Annotated[
        Path | None, typer.Option(help="Prompts known not to be memorised; a shipped list if left out.")
    ] = None,
    false_positive_rate: Annotated[float, typer.Option(help="Share of ordinary prompts that may be flagged.")] = 0.01,
    detector: Annotated[str, typer.Option(help="magnitude, magnitude_cosine or magnitude_fall.")] = "magnitude",
    steps: Annotated[int, typer.Option(help="Steps that are run and averaged; sampling stops after them.")] = 1,
    schedule_steps: Annotated[int, typer.Option(help="Length of the schedule that these steps begin.")] = 50,
    images_per_prompt: Annotated[int, typer.Option(help="Initial noises, averaged.")] = 1,
    guidance_scale: Guidance = 7.5,
    space: Annotated[str, typer.Option(help="auto, epsilon or native.")] = "auto",
    resolution: Annotated[int | None, typer.Option(help="Pixels a side; the model's own if left out.")] = None,
    per_step: Annotated[bool, typer.Option(help="Keep the magnitude of each step.")] = False,
    early_exit: Annotated[
        bool, typer.Option("--early-exit", help="Stop a prompt at the first step that flags it; with --steps above 1.")
    ] = False,
    scheduler: Scheduler = "auto",
    seed: Seed = 0,
    batch: Batch = 16,
    device: Device = None,
    dtype: Dtype = "float32",
    resume: Annotated[bool, typer.Option(help="Go on with the results in --out.")] = False,
    show: Annotated[int, typer.Option(help="Rows of the table.")] = 20,
    wandb: Wandb = None,
    wandb_samples: WandbSamples = False,
) -> None:
    """Say which prompts of a list a model has memorised.

    Exit code 0 also where some lines could not be read or scored: they are counted and said. 2 where none could.
    """
    from memsieve.inference.detect.detectors import DetectSettings
    from memsieve.inference.detect.run import detect_file, read_json_lines

    settings = DetectSettings(
        detector=detector, steps=steps, schedule_steps=schedule_steps, images_per_prompt=images_per_prompt,
        guidance_scale=guidance_scale, seed=seed, space=space, resolution=resolution, early_exit=early_exit,
    )  # fmt: skip
    opened = open_for(model, scheduler, device, dtype)
    try:
        summary = detect_file(
            opened, prompts, out, settings=settings, ordinary=ordinary, false_positive_rate=false_positive_rate,
            batch=batch, resume=resume, per_step=per_step,
        )  # fmt: skip
    except KeyboardInterrupt:
        warn(f"stopped; the same command with --resume goes on with {out}")
        raise typer.Exit(130) from None
    rows = [row for row in read_json_lines(out / "scores.jsonl") if row["error"] is None]
    table = Table("prompt", "score", "p", "memorised", title=f"{detector}, highest first")
    for row in sorted(rows, key=lambda row: -row["score"])[:show]:
        table.add_row(plain(row["prompt"]), f"{row['score']:.4g}", f"{row['p']:.3g}", "yes" if row["flagged"] else "")
    _out.print(table)
    for row in [row for row in rows if row["cut"]][:5]:
        warn(f"line {row['line']}: the prompt is too long for the text encoder, cut off: '{row['cut'][:80]}'")
    if summary["cut"] > 5:
        warn(f"{summary['cut'] - 5} more prompts were cut; see the column 'cut'")
    for error in summary["errors"]:
        warn(error)
    say_unread(summary["ordinary_errors"], summary["ordinary_failed"] + summary["ordinary"], "--ordinary")
    if ordinary is None and summary["scored"] >= 20 and summary["flagged"] > 0.1 * summary["scored"]:
        warn(
            f"{summary['flagged']} of {summary['scored']} flagged: a model tuned to one domain reacts to all "
            "prompts of that domain more than to the shipped list; give ordinary prompts of the domain with --ordinary"
        )
    _out.print(
        f"{summary['read']} read = {summary['scored']} scored + {summary['failed']} failed; "
        f"{summary['flagged']} flagged "
        f"(score above {summary['threshold']:.4g}, {false_positive_rate:g} of {summary['ordinary']} ordinary prompts); "
        f"{summary['steps_per_prompt'] or 0:.3g} of {steps} steps each; "
        f"results in {out}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if wandb is not None:
        upload_detection(wandb, out, wandb_samples)


def evaluate(
    model: Model,
    memorized: Annotated[Path, typer.Option(help="Prompts known to be memorised.")],
    ordinary: Annotated[Path | None, typer.Option(help="Ordinary prompts; the shipped list if left out.")] = None,
    detector: Annotated[str, typer.Option(help="magnitude, magnitude_cosine or magnitude_fall.")] = "magnitude",
    steps: Annotated[str, typer.Option(help="Comma-separated.")] = "1,10,50",
    images_per_prompt: Annotated[str, typer.Option(help="Comma-separated.")] = "1,4",
    schedule_steps: Annotated[int, typer.Option(help="Length of the schedule.")] = 50,
    guidance_scale: Guidance = 7.5,
    space: Annotated[str, typer.Option(help="auto, epsilon or native.")] = "auto",
    scheduler: Scheduler = "auto",
    seed: Seed = 0,
    batch: Batch = 16,
    device: Device = None,
    dtype: Dtype = "float32",
    out: Annotated[Path | None, typer.Option(help="Also write the results as JSON.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the measurements beside --out.")] = False,
) -> None:
    """AUC and TPR at 1 % FPR of a detector, with intervals over groups of near-identical prompts."""
    from memsieve.inference.detect.detectors import DetectSettings
    from memsieve.inference.detect.evaluate import evaluate_detector, seconds_to_generate
    from memsieve.inference.detect.run import model_identity
    from memsieve.inference.prompts.lists import PromptRow, ordinary_prompts, read_prompts
    from memsieve.inference.resume import measurements_on_disk

    chosen, images = numbers(steps, "--steps"), numbers(images_per_prompt, "--images-per-prompt")
    settings = DetectSettings(
        detector=detector, steps=min(chosen), schedule_steps=schedule_steps, guidance_scale=guidance_scale, seed=seed,
        space=space,
    )  # fmt: skip
    lists = [read_prompts(memorized, "--memorized")]
    lists.append(
        [PromptRow(i, text) for i, text in enumerate(ordinary_prompts(), 1)]
        if ordinary is None
        else read_prompts(ordinary, "--ordinary")
    )
    read = [usable(rows, option) for rows, option in zip(lists, ("--memorized", "--ordinary"), strict=True)]
    distinct = [list({row.prompt: row for row in rows}.values()) for rows in read]
    opened = open_for(model, scheduler, device, dtype)
    first, second = ([row.prompt for row in rows] for rows in distinct)
    if resume and out is None:
        raise ValueError("--resume needs --out FILE: the measurements are kept beside it")
    with ExitStack() as stack:
        known: dict[str, Any] = {}
        keep = None
        if out is not None:
            asked = {
                "settings": asdict(replace(settings, steps=max(chosen), images_per_prompt=max(images))),
                "model": model_identity(opened),
                "scheduler": scheduler,
            }
            file = out.with_suffix(".measured.jsonl")
            known, keep = stack.enter_context(measurements_on_disk(file, asked, resume))
        results = evaluate_detector(
            opened, first, second, settings=settings, steps=chosen, images=images, batch=batch,
            groups=([row.group for row in distinct[0]], [row.group for row in distinct[1]]), known=known, keep=keep,
        )  # fmt: skip
    plainly = seconds_to_generate(opened, second[:batch], settings, batch)
    table = Table("steps", "n", "AUC", "95 %", "TPR at 1 % FPR", "95 %", "s / prompt")
    for r in results:
        table.add_row(
            str(r.steps), str(r.images_per_prompt), f"{r.auc.value:.3f}", f"{r.auc.low:.3f} to {r.auc.high:.3f}",
            f"{r.tpr.value:.3f}", f"{r.tpr.low:.3f} to {r.tpr.high:.3f}", f"{r.seconds_per_prompt:.3g}",
        )  # fmt: skip
    _out.print(table)
    some = results[0]
    _out.print(
        f"{some.memorized} memorised prompts in {some.memorized_groups} groups, {some.ordinary} ordinary in "
        f"{some.ordinary_groups}; a plain generation of {schedule_steps} steps takes {plainly:.3g} s",
        highlight=False,
        soft_wrap=True,
    )
    if some.ordinary < 100:
        warn(f"{some.ordinary} ordinary prompts: below 100, a false-positive rate of 1 % allows none of them")
    if out is not None:
        found = {"results": [asdict(r) for r in results], "seconds_per_generation": plainly}
        write_json(out, found)


def explain(
    model: Model,
    prompt: Annotated[list[str], typer.Option(help="A prompt. Repeatable.")],
    out: Annotated[Path | None, typer.Option(help="Folder for explain.json, explain.html and a PNG each.")] = None,
    at_steps: Annotated[str, typer.Option(help="Steps, from 0, at which gradients are taken; comma-separated.")] = "0",
    schedule_steps: Annotated[int, typer.Option(help="Length of the schedule.")] = 50,
    images_per_prompt: Annotated[int, typer.Option(help="Initial noises, averaged.")] = 4,
    guidance_scale: Guidance = 7.5,
    space: Annotated[str, typer.Option(help="auto, epsilon or native.")] = "auto",
    scheduler: Scheduler = "auto",
    seed: Seed = 0,
    batch: Batch = 4,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Say which words of a prompt move the magnitude most."""
    from memsieve.inference.detect.detectors import DetectSettings
    from memsieve.inference.explain.explain import explain as explain_prompt
    from memsieve.inference.explain.page import as_text, write_page, write_picture

    settings = DetectSettings(
        schedule_steps=schedule_steps, images_per_prompt=images_per_prompt, guidance_scale=guidance_scale, seed=seed,
        space=space,
    )  # fmt: skip
    steps = numbers(at_steps, "--at-steps", least=0)
    opened = open_for(model, scheduler, device, dtype)
    found, failed = [], 0
    for text in prompt:
        if not text.strip():
            warn("a prompt is empty: there is no word to explain")
            failed += 1
            continue
        found.append(explain_prompt(opened, text, settings=settings, at_steps=steps, batch=batch))
        _out.print(as_text(found[-1]), markup=False, highlight=False, soft_wrap=True)
        _out.print(f"magnitude {found[-1].magnitude:.4g}\n", highlight=False)
        if found[-1].cut:
            warn(f"the prompt is too long for the text encoder, cut off: '{found[-1].cut[:80]}'")
    if out is not None and found:
        out.mkdir(parents=True, exist_ok=True)
        rows = [explanation.as_dict() for explanation in found]
        write_json(out / "explain.json", rows)
        write_page(out / "explain.html", found)
        for number, explanation in enumerate(found, 1):
            write_picture(out / f"explain-{number}.png", explanation)
        _out.print(f"written to {out}", markup=False, highlight=False)
    if failed:
        raise ValueError(f"--prompt: {failed} of {len(prompt)} prompts are empty; give some text")


def minimize(
    model: Model,
    prompt: Annotated[str, typer.Option(help="The memorised prompt.")],
    out: Annotated[Path, typer.Option(help="Folder for embeddings, trace and pictures.")] = Path("runs/minimize"),
    target: Annotated[float | None, typer.Option(help="Magnitude to reach; from ordinary prompts if left out.")] = None,
    target_quantile: Annotated[float, typer.Option(help="Of ordinary prompts' magnitudes, for the target.")] = 0.3,
    ordinary: Annotated[Path | None, typer.Option(help="Ordinary prompts; the shipped list if left out.")] = None,
    images_per_prompt: Annotated[int, typer.Option(help="Images, each with embeddings of its own.")] = 4,
    iterations: Annotated[int, typer.Option(help="Updates at most.")] = 30,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate, 0.05; with closest the largest update as a share of the embedding, 0.1."),
    ] = None,
    method: Annotated[
        str, typer.Option(help="adamw (Wen et al.), or closest: the target with the least change.")
    ] = "adamw",
    tokens: Annotated[
        str, typer.Option(help="What moves: all, the words, or the padding (and end token) behind them.")
    ] = "all",
    replace: Annotated[
        list[str] | None, typer.Option(help="A word to try in place of the heaviest ones. Repeatable.")
    ] = None,
    generate: Annotated[bool, typer.Option(help="Also draw the images, before and after.")] = True,
    schedule_steps: Annotated[int, typer.Option(help="Length of the schedule.")] = 50,
    guidance_scale: Guidance = 7.5,
    space: Annotated[str, typer.Option(help="auto, epsilon or native.")] = "auto",
    scheduler: Scheduler = "auto",
    seed: Seed = 0,
    batch: Batch = 4,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """Change a memorised prompt's embedding until it no longer regurgitates, and suggest other words."""
    from safetensors.torch import save_file

    from memsieve.inference.charts import side_by_side
    from memsieve.inference.detect.detectors import DetectSettings
    from memsieve.inference.minimize.minimize import draw, ordinary_target, suggest_edits
    from memsieve.inference.minimize.minimize import minimize as minimize_prompt
    from memsieve.inference.prompts.lists import ordinary_prompts, read_prompts

    if not prompt.strip():
        raise ValueError("--prompt: the prompt is empty; give some text")
    settings = DetectSettings(schedule_steps=schedule_steps, guidance_scale=guidance_scale, seed=seed, space=space)
    known = ordinary_prompts()
    if ordinary is not None:
        known = [row.prompt for row in usable(read_prompts(ordinary, "--ordinary"), "--ordinary")]
    opened = open_for(model, scheduler, device, dtype)
    if target is None:
        target = ordinary_target(opened, known, settings, target_quantile)
    result = minimize_prompt(
        opened,
        prompt,
        target,
        images=images_per_prompt,
        iterations=iterations,
        lr=lr,
        method=method,
        tokens=tokens,
        settings=settings,
        batch=batch,
    )
    _, suggestions = suggest_edits(opened, prompt, replacements=replace or ["something"], settings=settings)
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value for name, value in result.arguments.items() if hasattr(value, "cpu")}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, out / "embeddings.safetensors")
    written = {**result.as_dict(), "suggestions": [suggestion.as_dict() for suggestion in suggestions]}
    write_json(out / "minimize.json", written)
    table = Table("image", "before", "after", "updates", f"at most {target:.4g}")
    for i, (after, met) in enumerate(zip(result.magnitude, result.met, strict=True)):
        column = [row[i] for row in result.trace]
        done = next((k for k, value in enumerate(column) if value <= target), len(column) - 1)
        table.add_row(str(i), f"{column[0]:.4g}", f"{after:.4g}", str(done), "yes" if met else "no")
    _out.print(table)
    edits = Table("change", "prompt", "score")
    for suggestion in suggestions:
        edits.add_row(plain(suggestion.change), plain(suggestion.prompt), f"{suggestion.score:.4g}")
    _out.print(edits)
    if not all(result.met):
        warn("the target was not met for every image: more --iterations, a higher --lr, or another wording")
    if generate:
        before, after_images = draw(opened, result, settings)
        side_by_side(out / "minimize.png", {"as it was": before, "minimised": after_images})
    _out.print(f"written to {out}", markup=False, highlight=False)
