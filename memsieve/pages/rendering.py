"""Pages of templates/, in which every value is escaped and a name that is not given is an error."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from memsieve.pages.said import count, share, sig

__all__ = ["render"]


def render(name: str, context: Mapping[str, Any]) -> str:
    """The page ``name``; a page with scripts of its own runs those alone, by a nonce."""
    loader = ChoiceLoader([PackageLoader("memsieve.pages"), PackageLoader("memsieve.inference")])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.filters.update(count=count, sig=sig, share=share)
    return environment.get_template(name).render({**context, "nonce": secrets.token_hex(12)})
