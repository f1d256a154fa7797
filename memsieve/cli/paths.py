"""Commands whose paths begin at home: ``~`` in every option and argument of type Path is the user's folder.

A shell leaves the tilde alone in ``--out=~/x``, and so do programs that start commands themselves.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import typer

from memsieve.filtering.settings import expand_home

__all__ = ["PathTyper", "at_home"]

F = TypeVar("F", bound=Callable[..., Any])


class PathTyper(typer.Typer):
    """A Typer whose commands get their paths with ``~`` expanded, each of them, the defaults too."""

    def command(self, *args: Any, **options: Any) -> Callable[[F], F]:
        """As Typer's."""
        register = super().command(*args, **options)

        def decorate(function: F) -> F:
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
