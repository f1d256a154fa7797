"""Run files of version 0.1 in today's words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

from memsieve.filtering.files import write_whole
from memsieve.filtering.gone import GONE, changed_since, rule_of_0_1
from memsieve.filtering.settings import SettingsError, parse_settings, read_settings
from memsieve.train.config import RunConfig

__all__ = ["rewritten", "upgrade_file"]

_NAME_A_RULE: Final = ("calibrator", "decide")


def rewritten(text: str, rule: str | None) -> str:
    """The YAML ``text`` without the lines of section ``filter`` that set what is gone, and with ``rule`` on the line
    of the first that named it; comments, order and line endings stay. A section of which nothing is left is an empty
    one."""
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        if re.match(r"\S", line) and not line.startswith("#"):
            inside = re.match(r"filter\s*:", line) is not None
        name = re.match(r"(\s+)(\w+)\s*:", line)
        if not (inside and name is not None and name[2] in GONE):
            kept.append(line)
        elif rule is not None and name[2] in _NAME_A_RULE:
            kept.append(f"{name[1]}rule: {rule}{line[len(line.rstrip()) :].lstrip(' ')}")
            rule = None
    new = "".join(kept)
    if _section(new) is None:  # a heading alone is no section
        new = re.sub(r"^(filter\s*:)", r"\1 {}", new, count=1, flags=re.MULTILINE)
    return new


def upgrade_file(path: Path) -> tuple[list[str], list[str]]:
    """Rewrite a run file in place: (settings that were taken out, a sentence about each that had another value than
    now holds). ``rule`` takes the place of those that named it. What the file was is kept beside it, as FILE.old.

    Raises:
        SettingsError: it is no file of a run, now or in 0.1, or without the lines it would say something else; nothing
            is written then.
    """
    before = read_settings(path)
    section = before.get("filter") or {}
    if not isinstance(section, dict):
        raise SettingsError(f"'{path}': filter must be a section")
    taken = [f"filter.{name}" for name in section if name in GONE]
    changed = [
        f"filter.{name}: {section.get(name, 'eligible')!r} holds no more: {GONE[name].why}"
        for name in changed_since(section)
    ]  # fmt: skip
    if not taken:
        parse_settings(RunConfig, before, where=str(path))
        return [], []
    rule = _rule(path, section)
    text = path.read_bytes().decode("utf-8")  # with the line endings that it has
    new = rewritten(text, rule)
    meant = {name: value for name, value in section.items() if name not in GONE}
    if rule is not None and _names_rule(section):
        meant["rule"] = rule
    if _read(new) != {**before, "filter": meant}:
        named = f"set filter.rule: {rule}, and " if rule is not None else ""
        raise SettingsError(
            f"'{path}': only what stands on a line of its own is taken out, and without such lines this file would say "
            f"something else; by hand, {named}take out {', '.join(taken)}"
        )
    parse_settings(RunConfig, _read(new) or {}, where=str(path))
    old = path.with_name(f"{path.name}.old")
    if old.exists():
        raise SettingsError(f"'{old}' is there already, and would be written over; move it away first")
    mode = path.stat().st_mode
    for file, written in ((old, text), (path.resolve(), new)):  # a link stays one
        write_whole(file, written)
        file.chmod(mode)
    return taken, changed


def _names_rule(section: dict[str, Any]) -> bool:
    return any(name in section for name in _NAME_A_RULE)


def _rule(path: Path, section: dict[str, Any]) -> str | None:
    """The rule that the section named by settings of 0.1; None where by none of them.

    Raises:
        SettingsError: 0.1 refused such a section too, unless the command line set the rest.
    """
    rule = rule_of_0_1(section)
    if rule is None and "rule" not in section and _names_rule(section):
        named = " and ".join(f"filter.{name}: {section[name]}" for name in _NAME_A_RULE if name in section)
        raise SettingsError(
            f"'{path}': {named} named no rule in 0.1; set filter.rule (evidence, threshold, z_score or "
            f"rank) in place of {'them' if ' and ' in named else 'it'}"
        )
    return rule


def _read(text: str) -> dict[str, Any] | None:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return found if isinstance(found, dict) else None


def _section(text: str) -> Any:
    """Section ``filter``; an empty one where there is none, or where it cannot be read."""
    return (_read(text) or {}).get("filter", {})
