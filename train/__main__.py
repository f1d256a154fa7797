"""``accelerate launch -m memsieve.train CONFIG.yaml [--set section.key=value ...] [--dry-run]``."""

from __future__ import annotations

import sys

if __name__ == "__main__" and __package__ == "train":
    sys.exit("error: the trainer's name is memsieve.train: accelerate launch -m memsieve.train CONFIG.yaml")

import json
import os
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.progress import Progress

from memsieve.filtering.beside import not_found
from memsieve.filtering.folder_kind import TRAINING, refuse_other_kind
from memsieve.filtering.quiet import begin
from memsieve.filtering.settings import apply_overrides, load_settings, read_settings
from memsieve.train.config import RunConfig

__all__ = ["complete", "main", "run"]


def run(
    config: Annotated[str, typer.Argument(help="YAML file of the run; see configs/train/.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override: section.key=value. Repeatable.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build everything, score a batch, read all captions; nothing is trained.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Also what other packages say of their work.")] = False,
) -> None:
    """Fine-tune with the filter on. The same command resumes a run that was stopped."""
    console = Console(stderr=True, emoji=False)  # a key between colons is not an emoji
    if not verbose:
        begin()
    try:
        settings = load_settings(RunConfig, config, overrides)
        refuse_other_kind(settings.output, TRAINING, "output")
        if dry_run:
            _rehearse(settings, console)
        elif complete(settings):
            console.print(_already(settings), markup=False)
        else:
            _train(settings, console)
    except KeyboardInterrupt as stopped:
        console.print(str(stopped) or "stopped", style="yellow", markup=False)
        raise typer.Exit(130) from None
    except ValueError as error:
        _say(console, error)
        if (more := _where(error, config, overrides)) is not None:
            console.print(more, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


def _where(error: ValueError, config: str, overrides: list[str] | None) -> str | None:
    """Where a path of the settings was looked for, if that is what is wrong."""
    try:
        return not_found(error, apply_overrides(read_settings(config), overrides or []), config)
    except ValueError:
        return None


def _rehearse(settings: RunConfig, console: Console) -> None:
    from memsieve.train.dry_run import dry_run

    first = os.environ.get("RANK", "0") == "0"
    if first:
        print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), end="")
    said = dry_run(settings)
    if not first:
        return
    console.print(said)
    if (stops := _looked_over(settings, console)) is not None:
        raise ValueError(stops)


def _looked_over(settings: RunConfig, console: Console) -> str | None:
    """Why the run would stop at its data, by a look at every sample."""
    from memsieve.filtering.data.look_over import look_over

    with Progress(console=console) as progress:
        task = progress.add_task("looking at every caption", total=None)
        found = look_over(settings.data, lambda done, total: progress.update(task, completed=done, total=total))
    console.print(f"{found.rows} samples to train on, {found.unusable} of them unusable", highlight=False)
    return found.stops(settings.data)


def _warn_of_captions(settings: RunConfig, console: Console) -> None:
    """Say before an image folder is trained on which captions would stop the run: nobody waits for that in vain."""
    from memsieve.filtering.data.look_over import without_caption

    if settings.data.format != "folder" or settings.data.keep_list is not None or os.environ.get("RANK", "0") != "0":
        return
    if (stops := without_caption(settings.data).stops(settings.data)) is not None:
        console.print(f"warning: {stops}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _train(settings: RunConfig, console: Console) -> None:
    from memsieve.train.export import ExportError
    from memsieve.train.loop import BadDataError, fit
    from memsieve.train.set_up import set_up
    from memsieve.train.step import NonFiniteError
    from memsieve.train.watchdog import RankFailure

    _warn_of_captions(settings, console)
    try:
        session = set_up(settings)
        summary = fit(session)
    except (BadDataError, NonFiniteError, ExportError) as error:
        _say(console, error)
        raise typer.Exit(1) from None
    except RankFailure as error:
        _say(console, error)
        sys.stderr.flush()
        os._exit(1)  # the process group is broken: an orderly end would wait for the rank that is gone
    if session.accelerator.is_main_process:
        console.print(_sentence(summary), highlight=False)
        if (said := _what_to_use(summary, str(settings.output))) is not None:
            console.print(said, highlight=False, markup=False, soft_wrap=True)


def _say(console: Console, error: Exception) -> None:
    console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)


def complete(settings: RunConfig) -> bool:
    """Whether the run folder holds the end of this very run."""
    path = settings.output / "summary.json"
    if not path.is_file():
        return False
    summary = json.loads(path.read_text(encoding="utf-8"))
    if settings.train.epochs is None:
        return int(summary["steps"]) >= (settings.train.steps or 0)
    done = summary.get("epochs") or settings.train.epochs  # older runs do not say
    return int(done) >= settings.train.epochs


def _already(settings: RunConfig) -> str:
    from memsieve.train.checkpoint import latest_checkpoint

    run = f"the run in '{settings.output}' is complete"
    if latest_checkpoint(settings.output) is None:
        return f"{run} and kept no checkpoint to go on from; name another output to train anew"
    length = "train.steps" if settings.train.epochs is None else "train.epochs"
    return f"{run}; raise {length} to go on, or name another output"


def _sentence(summary: dict[str, object]) -> str:
    dropped = summary["dropped"]
    failed = summary["failed"]
    not_kept = summary["not_kept"]
    assert isinstance(dropped, dict) and isinstance(failed, dict) and isinstance(not_kept, dict)
    past = f" + not kept {sum(not_kept.values())}" if not_kept else ""
    return (
        f"read {summary['read']} = trained {summary['trained']} + dropped {sum(dropped.values())} + failed "
        f"{sum(failed.values())} + held out {summary['held_out']}{past} + remainder {summary['remainder']}; "
        f"{summary['updates']} updates, {summary['skipped_steps']} steps skipped"
    )


def _what_to_use(summary: dict[str, object], run: str) -> str | None:
    """Which model to take and why, where the run has looked."""
    use = summary.get("use")
    if not isinstance(use, dict):
        return None
    if use["folder"] is None:
        return f"none of the models of this run: {use['why']}"
    return f"use {run}/{use['folder']} (step {use['step']}): {use['why']}"


def main() -> None:
    """Entry point of ``python -m memsieve.train``."""
    typer.run(run)


if __name__ == "__main__":
    main()
