"""Which shard files a path means: brace ranges, globs, folders and URLs."""

from __future__ import annotations

import glob
import os

from braceexpand import braceexpand

from memsieve.filtering.data.archives import check_protocol
from memsieve.filtering.settings import SettingsError

__all__ = ["expand_paths"]


def expand_paths(
    path: str | list[str], option: str = "data.path", *, allow_pipe: bool = False, allow_empty: bool = False
) -> list[str]:
    """The shard files that ``path`` means: brace ranges, globs (sorted), folders (their ``*.tar``), ``a::b`` joined.

    Args:
        path: one or more of these.
        option: named in messages.
        allow_pipe: let ``pipe:`` commands through.
        allow_empty: let local shards of 0 bytes through.

    Raises:
        SettingsError: nothing is found, a named shard is missing or has 0 bytes, braces do not balance, a kind of URL
            cannot be read here, or ``path`` is a ``pipe:`` command.
    """
    found: list[str] = []
    for text in [path] if isinstance(path, str) else path:
        for part in text.split("::"):
            if part.strip().startswith("pipe:"):
                if not allow_pipe:
                    raise SettingsError(
                        f"{option} = '{text}': 'pipe:' would run a command and is refused; name the files, or allow "
                        "commands (--allow-pipe, data.allow_pipe: true)"
                    )
                found.extend(braceexpand(part.strip()))
                continue
            found.extend(_expand(part.strip(), text, option))
    if not found:
        raise SettingsError(
            f"{option} = {path!r} names no shards; give a tar file, a range, a glob or a folder of tars"
        )
    for name in found:
        if not allow_empty and "://" not in name and not name.startswith("pipe:") and os.path.getsize(name) == 0:
            raise SettingsError(f"{option}: shard '{name}' has 0 bytes; copy it again or leave it out")
    return found


def _expand(part: str, text: str, option: str) -> list[str]:
    if not part:
        return []
    if "://" not in part:
        part = os.path.expanduser(part)
        if os.path.isfile(part):
            return [part]
    try:
        names = list(braceexpand(part))
    except ValueError as error:
        raise SettingsError(f"{option} = '{text}': {error}") from None
    found: list[str] = []
    for name in names:
        if "://" in name:
            check_protocol(name, option)
        if "://" in name or os.path.isfile(name):
            found.append(name)
            continue
        pattern = os.path.join(glob.escape(name), "*.tar") if os.path.isdir(name) else name
        matches = sorted(match for match in glob.glob(pattern, recursive=True) if os.path.isfile(match))
        if not matches:
            what = f"folder '{name}' holds no *.tar file" if os.path.isdir(name) else f"nothing is found at '{name}'"
            raise SettingsError(f"{option} = '{text}': {what}; give a tar file, a range, a glob or a folder of tars")
        found.extend(matches)
    return found
