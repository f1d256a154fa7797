"""Pages of templates/, in which every value is escaped: prompts and names are untrusted."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader

__all__ = ["render"]


def render(name: str, **values: Any) -> str:
    """The page ``name``."""
    loader = PackageLoader("memsieve.inference")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(name).render(values)
