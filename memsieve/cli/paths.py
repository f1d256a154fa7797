"""Commands whose paths begin at home: ``~`` in every option and argument of type Path is the user's folder.

A shell leaves the tilde alone in ``--out=~/x``, and so do programs that start commands themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from memsieve.filtering.settings import expand_home

__all__ = ["PathTyper", "at_home", "renamed"]

F = TypeVar("F", bound=Callable[..., Any])


def renamed(**old: str) -> type[TyperCommand]:
    """A command that still knows options by the names that they had: ``shards="data"`` reads --shards as --data."""
    names = {f"--{before.replace('_', '-')}": f"--{now.replace('_', '-')}" for before, now in old.items()}

    class Renamed(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            """With today's names."""
            today = []
            for place, arg in enumerate(args):
                if arg == "--":
                    today += args[place:]
                    break
                option, equals, value = arg.partition("=")
                today.append(names.get(option, option) + equals + value)
            return list(super().parse_args(ctx, today))

    return Renamed


class PathTyper(typer.Typer):
    """A Typer whose commands get their paths with ``~`` expanded, each of them, the defaults too."""

    def command(self, *args: Any, **options: Any) -> Callable[[F], F]:
        """As Typer's; a list of commands has the first sentence of each."""

        def decorate(function: F) -> F:
            said = " ".join((function.__doc__ or "").split("\n\n")[0].split())
            register = super(PathTyper, self).command(
                *args, **{"short_help": said.split(". ")[0].rstrip(".") + ".", **options}
            )
            register(at_home(function))
            return function

        return decorate


def at_home(function: F) -> F:
    """``function`` with every Path among its keyword arguments expanded.

    Raises:
        ValueError: when it is called with a path that begins at the home of a user whom nobody knows.
    """

    @functools.wraps(function)
    def expanded(**values: Any) -> Any:
        return function(**{name: _expanded(name, value) for name, value in values.items()})

    return expanded  # type: ignore[return-value]


def _expanded(name: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_expanded(name, one) for one in value)
    if not isinstance(value, Path):
        return value
    try:
        return Path(expand_home(str(value)))
    except ValueError as error:
        raise ValueError(f"--{name.replace('_', '-')}: {error}") from None
