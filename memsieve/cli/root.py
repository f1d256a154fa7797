"""memsieve: fine-tune without memorising, audit datasets, check finished models."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from memsieve import __version__
from memsieve.cli.audit import audit
from memsieve.cli.check import check
from memsieve.cli.common import error_console
from memsieve.cli.config import config
from memsieve.cli.data import data
from memsieve.cli.detect import detect
from memsieve.cli.evaluate_detector import evaluate_detector
from memsieve.cli.explain import explain
from memsieve.cli.index import index
from memsieve.cli.init import init
from memsieve.cli.minimize import minimize
from memsieve.cli.paths import PathTyper, renamed
from memsieve.cli.probe import probe
from memsieve.cli.report import report
from memsieve.cli.ui import ui
from memsieve.cli.verify import verify
from memsieve.filtering.quiet import begin
from memsieve.train.__main__ import run as train

__all__ = ["app", "main"]

_OLD: dict[Any, type[TyperCommand]] = {verify: renamed(alpha="false_positive_rate")}
_TRAIN, _CHECK, _DATA = "Train", "Check a model", "Data"

app = PathTyper(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.command(rich_help_panel=_TRAIN)(init)
app.command("train", rich_help_panel=_TRAIN)(train)
app.command(rich_help_panel=_TRAIN)(report)
for _command in (check, detect, evaluate_detector, explain, minimize, index, verify, probe, ui):
    app.command(rich_help_panel=_CHECK, cls=_OLD.get(_command))(_command)
app.add_typer(config, name="config", rich_help_panel=_TRAIN)
app.add_typer(audit, name="audit", rich_help_panel=_DATA)
app.add_typer(data, name="data", rich_help_panel=_DATA)


@app.command("copies", hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def _copies() -> None:
    raise ValueError(
        "copies: `check` says it, of any data: memsieve check --model MODEL --data DATA/train --held-out DATA/held_out"
    )


def _version(asked: bool) -> None:
    if asked:
        print(f"memsieve {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also what other packages say: bars of weights, notices, warnings.")
    ] = False,
) -> None:
    if not verbose:
        begin()


def main() -> None:
    """Console entry: a wrong setting or file ends with one sentence and exit code 2."""
    try:
        app()
    except ValueError as error:
        error_console.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
