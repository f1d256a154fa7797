"""memsieve: fine-tune without memorising, audit datasets, check finished models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from memsieve import __version__
from memsieve.cli import inference, ui
from memsieve.cli.audit import audit
from memsieve.cli.common import Model
from memsieve.cli.paths import PathTyper
from memsieve.train.__main__ import run

__all__ = ["app", "main"]

app = PathTyper(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
data = PathTyper(no_args_is_help=True, help="Build captioned datasets.")
app.add_typer(data, name="data")
app.add_typer(audit, name="audit")
app.command("train")(run)
inference.register(app)
ui.register(app)
_console = Console(stderr=True, emoji=False)


@data.command("openmoji")
def openmoji(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="Decides split, planted pairs and order.")] = 0,
    plant: Annotated[list[str] | None, typer.Option(help="PAIRSxREPEATS, for example 6x2000. Repeatable.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most this many images.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier dataset.")] = False,
) -> None:
    """Render OpenMoji into WebDataset shards with train / held-out splits, and plant duplicates."""
    from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji

    with Progress(console=_console) as progress:
        task = progress.add_task("drawing")
        summary = build_openmoji(
            out,
            DatasetPlan(size=size, seed=seed, plant=plant or [], limit=limit),
            overwrite=overwrite,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _console.print({name: value for name, value in summary.items() if isinstance(value, int | str)})


@app.command()
def copies(
    model: Model,
    dataset: Annotated[Path, typer.Option("--data", help="A dataset folder with truth.parquet.")],
    out: Annotated[Path | None, typer.Option(help="Also write the verdicts as JSON.")] = None,
    seeds: Annotated[int, typer.Option(help="Generations per prompt.")] = 3,
    guidance_scale: Annotated[float, typer.Option(help="Of the generations.")] = 3.0,
    similarity: Annotated[str, typer.Option(help="pixel_l2, tiled_l2, phash.")] = "pixel_l2",
) -> None:
    """Draw planted and ordinary prompts, and say how many come back as their training image."""
    from memsieve.inference.copies.probe import judge_for, probe_model, prompts_of, write_result

    planted, ordinary = prompts_of(dataset)
    if not planted:
        raise ValueError(f"'{dataset}' has no planted pairs; build it with --plant, for example --plant 6x2000")
    judge = judge_for(dataset, similarity)
    results = {
        name: probe_model(model, prompts, judge, seeds=seeds, guidance_scale=guidance_scale)
        for name, prompts in (("planted", planted), ("ordinary", ordinary))
    }
    table = Table("prompts", "copies", "copy rate", "95 % interval")
    for name, result in results.items():
        rate = result.rate
        table.add_row(
            name, f"{rate.copies} of {rate.generations}", f"{rate.rate:.2f}", f"{rate.low:.2f} to {rate.high:.2f}"
        )
    Console(emoji=False).print(table)
    if out is not None:
        write_result(out, **results)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the page; RUN/report.html by default.")] = None,
    comparison: Annotated[Path | None, typer.Option(help="JSON of copy rates to show with it.")] = None,
) -> None:
    """One self-contained page of a run: who was dropped, when, why."""
    from memsieve.pages.run import build_report

    print(build_report(run_folder, out, comparison))


def _version(asked: bool) -> None:
    if asked:
        print(f"memsieve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Console entry: a wrong setting or file ends with one sentence and exit code 2."""
    try:
        app()
    except ValueError as error:
        _console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
