"""How a further package is installed, for messages: as this memsieve was installed itself."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, PackageNotFoundError
from urllib.parse import unquote, urlsplit

__all__ = ["install"]


def install(extra: str) -> str:
    """The command that installs ``extra`` of memsieve: from the folder where it is installed from one."""
    folder, editable = _source()
    if folder is None:
        return f"pip install 'memsieve[{extra}]'"
    return f"pip install {'-e ' if editable else ''}'{folder}[{extra}]'"


def _source() -> tuple[str | None, bool]:
    """The folder that memsieve was installed from, None where that was an index or a file; and whether it is edited in
    place. As pip writes it down (PEP 610)."""
    try:
        text = Distribution.from_name("memsieve").read_text("direct_url.json")
        said = json.loads(text) if text else {}
        url, info = urlsplit(said.get("url", "")), said.get("dir_info")
    except (PackageNotFoundError, ValueError, AttributeError):
        return None, False
    if url.scheme != "file" or not isinstance(info, dict):
        return None, False
    return unquote(url.path), bool(info.get("editable"))
