"""Run files of version 0.1 in today's words."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from memsieve.filtering.files import write_whole
from memsieve.filtering.gone import GONE, changed_since, rule_of_0_1
from memsieve.filtering.settings import SettingsError, parse_settings, read_settings
from memsieve.train.config import RunConfig

__all__ = ["rewritten", "upgrade_file"]


def rewritten(text: str, rule: str | None) -> str:
    """The YAML ``text`` without the lines of section ``filter`` that set what is gone, and with ``rule`` on the line
    of the first that named it; comments and order stay. A section of which nothing is left is an empty one."""
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        if re.match(r"\S", line) and not line.startswith("#"):
            inside = re.match(r"filter\s*:", line) is not None
        name = re.match(r"(\s+)(\w+)\s*:", line)
        if not (inside and name is not None and name[2] in GONE):
            kept.append(line)
        elif rule is not None and name[2] in ("calibrator", "decide"):
            kept.append(f"{name[1]}rule: {rule}\n")
            rule = None
    new = "".join(kept)
    if yaml.safe_load(new).get("filter", {}) is None:  # a heading alone is no section
        new = re.sub(r"^(filter\s*:)", r"\1 {}", new, count=1, flags=re.MULTILINE)
    return new


def upgrade_file(path: Path) -> tuple[list[str], list[str]]:
    """Rewrite a run file in place: (settings that were taken out, a sentence about each that had another value than
    now holds). ``rule`` takes the place of those that named it. What the file was is kept beside it, as FILE.old.

    Raises:
        SettingsError: it is no file of a run, now or in 0.1; nothing is written then.
    """
    section = read_settings(path).get("filter") or {}
    if not isinstance(section, dict):
        raise SettingsError(f"'{path}': filter must be a section")
    taken = [f"filter.{name}" for name in section if name in GONE]
    changed = [
        f"filter.{name}: {section.get(name, 'eligible')!r} holds no more: {GONE[name].why}"
        for name in changed_since(section)
    ]  # fmt: skip
    if not taken:
        parse_settings(RunConfig, read_settings(path), where=str(path))
        return [], []
    text = path.read_text(encoding="utf-8")
    new = rewritten(text, rule_of_0_1(section))
    left = [name for name in GONE if name in (yaml.safe_load(new).get("filter") or {})]
    if left:
        raise SettingsError(
            f"'{path}': filter.{left[0]} does not stand on a line of its own, and only such lines are taken out; take "
            "it out by hand"
        )
    upgraded = path.with_name(f"{path.name}.new")
    write_whole(upgraded, new)
    try:
        parse_settings(RunConfig, read_settings(upgraded), where=str(path))
    except SettingsError:
        upgraded.unlink()
        raise
    write_whole(path.with_name(f"{path.name}.old"), text)
    upgraded.replace(path)
    return taken, changed
