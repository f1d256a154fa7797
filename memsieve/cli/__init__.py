"""The ``memsieve`` command: one file a command, which parses and prints."""

from memsieve.cli.root import app, main

__all__ = ["app", "main"]
