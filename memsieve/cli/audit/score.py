"""``memsieve audit score``: settings from a file and from options, the progress bar, exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from memsieve.cli.audit.common import DAMAGED
from memsieve.cli.common import USELESS, error_console
from memsieve.filtering.audit.config import AuditRun
from memsieve.filtering.beside import not_found
from memsieve.filtering.settings import SettingsError, apply_overrides, parse_settings, read_settings

if TYPE_CHECKING:
    from memsieve.filtering.audit.score import Outcome

__all__ = ["score"]


def score(
    config: Annotated[
        Path | None, typer.Option(help="YAML file; options below override it. See configs/audit/.")
    ] = None,
    path: Annotated[
        list[str] | None, typer.Option("--data", help="Tar files, ranges, globs, folders or URLs. Repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the audit; the same command goes on with it.")] = None,
    model: Annotated[str | None, typer.Option(help="A diffusers pipeline folder, or a hub id.")] = None,
    data_only: Annotated[bool, typer.Option(help="No model: duplicates, captions and errors.")] = False,
    describe: Annotated[
        list[str] | None,
        typer.Option(help="For near-duplicates: pdq, sscd, sscd_distilled, or the file of a model. Repeatable."),
    ] = None,
    draws: Annotated[int | None, typer.Option(help="(t, noise) draws per sample; 4 by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draws; 0 by default.")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch", help="Samples per forward; 16 by default.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Pixels; the model's own by default.")] = None,
    format: Annotated[
        Literal["webdataset", "hf", "folder"] | None, typer.Option(help="What --data names; webdataset by default.")
    ] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="Override, as data.caption_key=json.text.")] = None,
    engine: Annotated[
        Literal["local", "ray"] | None, typer.Option(help="local by default; its ranks come from accelerate launch.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Ray actors; 0, the default: one per GPU or core.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="An existing Ray cluster.")] = None,
    device: Annotated[str | None, typer.Option(help="As cuda:0; the first GPU by default.")] = None,
    allow_pipe: Annotated[bool, typer.Option(help="Run 'pipe:' commands named in --data.")] = False,
    rescore: Annotated[bool, typer.Option(help="Replace scores of other settings or another model.")] = False,
) -> None:
    """Score every sample; only what is missing or stale is done.

    Exit code 1 where a shard could not be done, 3 where all are done and some were found truncated or damaged, 4 where
    all are done and no sample can be used.
    """
    from memsieve.filtering.audit.status import why_useless

    given: dict[str, Any] = {
        "output": out,
        "model": model,
        "seed": seed,
        "draws": draws,
        "batch_size": batch_size,
        "engine": engine,
    }
    given |= {"describe": describe}
    given |= {"workers": workers, "ray_address": ray_address, "device": device}
    data = {"path": path, "format": format, "resolution": resolution, "allow_pipe": allow_pipe or None}
    run = _settings(config, given, data, data_only, set or [])
    try:
        outcome = _scored(run, rescore)
    except ValueError as error:
        more = not_found(error, run.model_dump(mode="json"), config) if config is not None else None
        if more is None:
            raise
        raise SettingsError(f"{error}. {more}") from error
    _print_outcome(outcome)
    if outcome.failed:
        raise typer.Exit(1)
    rows, failed = _counts(outcome)
    if rows == failed and (why := why_useless(run.output)) is not None:
        error_console.print(why, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(USELESS)
    truncated = [marker.task for marker in outcome.done.values() if marker.truncated]
    if truncated:
        error_console.print(
            f"truncated or damaged: {len(truncated)} of the shards, the first '{truncated[0]}'",
            style="yellow",
            markup=False,
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(DAMAGED)


def _scored(run: AuditRun, rescore: bool) -> Outcome:
    """Score what is missing, under a bar; what stops it is said, and ends the command."""
    from memsieve.filtering.audit.ray_engine import RayCluster
    from memsieve.filtering.audit.score import Callbacks, rank_of, score_shards

    try:
        with _progress(quiet=rank_of()[0] > 0) as watch:
            return score_shards(
                run.audit(),
                run.output,
                device=run.device,
                ray=RayCluster(run.ray_address, run.workers) if run.engine == "ray" else None,
                rescore=rescore,
                callbacks=Callbacks(**watch),
            )
    except KeyboardInterrupt:
        said = "stopped; the shards that were finished stand, and the same command goes on"
        error_console.print(said, style="yellow")
        raise typer.Exit(130) from None
    except OSError as error:
        error_console.print(
            f"error: {error}. The shards that were finished stand; run the same command again when that is repaired",
            style="red",
            markup=False,
            soft_wrap=True,
            highlight=False,
        )
        raise typer.Exit(1) from None


def _counts(outcome: Outcome) -> tuple[int, int]:
    """Samples that were read now, and those of them that cannot be used."""
    markers = outcome.done.values()
    return sum(marker.rows for marker in markers), sum(marker.failed for marker in markers)


def _print_outcome(outcome: Outcome) -> None:
    rows, failed = _counts(outcome)
    error_console.print(
        f"{len(outcome.done)} shards done now ({rows:,} samples, {failed:,} unusable), {outcome.skipped} before",
        highlight=False,
    )
    for reason in list(outcome.failed.values())[:8]:
        error_console.print(f"not done: {reason}", style="red", markup=False, soft_wrap=True, highlight=False)
    if outcome.failed:
        error_console.print(
            f"{len(outcome.failed)} shards are not done; the same command tries them again", style="red"
        )


def _settings(
    file: Path | None, given: dict[str, Any], data: dict[str, Any], data_only: bool, overrides: list[str]
) -> AuditRun:
    """The file's settings under the options that were given, under ``overrides``."""
    raw = read_settings(file) if file is not None else {}
    raw |= {name: value for name, value in given.items() if value is not None}
    raw["data"] = section = raw.get("data") or {}
    if isinstance(section, dict):
        section |= {name: value for name, value in data.items() if value is not None}
    raw = apply_overrides(raw, overrides)
    if data_only and given["model"] is None:
        raw["model"] = None
    if "model" not in raw or (data_only and raw["model"] is not None):
        raise ValueError("name a --model, or ask for --data-only to look at duplicates, captions and errors alone")
    for name, missing in (
        ("--data", isinstance(section, dict) and "path" not in section),
        ("--out", "output" not in raw),
    ):
        if missing:
            raise ValueError(f"give {name}, or a --config file that names it (see configs/audit/)")
    return parse_settings(AuditRun, raw, where=str(file or "audit"))


@contextmanager
def _progress(quiet: bool) -> Iterator[dict[str, Any]]:
    """A bar over shards and a count of samples, with rate and ETA; the callbacks of ``score_shards``."""
    columns = [
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=error_console, disable=quiet) as progress:
        bar = progress.add_task("looking at what is done", total=None, note="")
        state = {"total": 0, "before": 0, "shards": 0, "samples": 0, "inside": 0.0}

        def show() -> None:
            elapsed = progress.tasks[0].elapsed or 0.0
            rate = f"  {state['samples'] / elapsed:,.1f}/s" if elapsed > 0 else ""
            note = (
                f"{state['before'] + state['shards']:,}/{state['total']:,} shards  {state['samples']:,} samples{rate}"
            )
            done = state["shards"] + state["inside"]
            progress.update(bar, completed=done, note=note)

        def begin(plan: Any) -> None:
            state.update(total=plan.total, before=plan.total - len(plan.todo))
            progress.reset(bar, total=len(plan.todo), description="scoring", note="")

        def advance(task: Any, samples: int, share: float) -> None:
            state.update(samples=state["samples"] + samples, inside=min(share, 0.999))
            show()

        def finished(task: Any, marker: Any) -> None:
            state.update(shards=state["shards"] + 1, inside=0.0)
            show()

        yield {"begin": begin, "advance": advance, "finished": finished}
