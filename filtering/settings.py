"""Strict settings: typed models that refuse unknown keys with a suggestion, YAML files, dotted overrides."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

__all__ = [
    "LocalPath",
    "PathText",
    "PathTexts",
    "Settings",
    "SettingsError",
    "apply_overrides",
    "expand_home",
    "load_settings",
    "parse_settings",
    "read_settings",
]


class SettingsError(ValueError):
    """A setting is wrong; the message names the option, its value and the way out."""


def expand_home(path: str) -> str:
    """``path`` with ``~`` or ``~user`` in front as that home folder; other paths, names and URLs as they are.

    Raises:
        ValueError: no such home is known. A folder would come to be that is named with a tilde.
    """
    if not path.startswith("~"):
        return path
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise ValueError(f"no home folder is known for '{path.split('/')[0]}' of '{path}'; write the path out in full")
    return found


def _at_home(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_at_home(one) for one in value]
    if isinstance(value, Path):
        return Path(expand_home(str(value)))
    if isinstance(value, str):
        return "::".join(expand_home(part) for part in value.split("::"))  # shards can be joined so
    return value


LocalPath = Annotated[Path, BeforeValidator(_at_home)]
"""A setting that is a path here. Every setting that takes a path has this type or one of the next two."""
PathText = Annotated[str, BeforeValidator(_at_home)]
"""A setting that may be a path: a hub id, a name or a URL stays what it is."""
PathTexts = Annotated[str | list[str], BeforeValidator(_at_home)]
"""One or more of these."""


class Settings(BaseModel):
    """Base of every settings section: unknown keys are errors, values are checked on assignment too."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


S = TypeVar("S", bound=Settings)


def load_settings(model: type[S], path: str | Path, overrides: list[str] | None = None) -> S:
    """Read a YAML file into ``model``, with ``a.b=c`` overrides laid over it.

    Raises:
        SettingsError: the file is missing, is not a YAML mapping, or a key or value in it is wrong.
    """
    return parse_settings(model, apply_overrides(read_settings(path), overrides or []), where=str(path))


def read_settings(path: str | Path) -> dict[str, Any]:
    """What a YAML file of settings holds, not yet checked against a model.

    Raises:
        SettingsError: the file is missing, or is not a YAML mapping.
    """
    try:
        file = Path(expand_home(str(path)))
    except ValueError as error:
        raise SettingsError(f"config file: {error}") from None
    if not file.is_file():
        raise SettingsError(f"config file '{file}' does not exist; name a YAML file, for example one of configs/")
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"config file '{file}' is not valid YAML: {error}") from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise SettingsError(f"config file '{file}' must hold a mapping of sections, not a {type(raw).__name__}")
    return raw


def apply_overrides(raw: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Lay ``section.key=value`` strings over ``raw``; values are read as YAML, so ``1e-4`` and lists work.

    Raises:
        SettingsError: an override is not of that form, or lies below what is no section.
    """
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator or not dotted.strip():
            raise SettingsError(f"--set '{override}' must look like section.key=value, for example train.seed=1")
        try:
            value = _number(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise SettingsError(
                f"--set '{override}': the value is not valid YAML; put a text in quotes of its own: {error}"
            ) from error
        node = raw
        *parents, leaf = dotted.strip().split(".")
        for name in parents:
            child = node.setdefault(name, {})
            if child is None:
                child = node[name] = {}
            if not isinstance(child, dict):
                raise SettingsError(f"--set '{override}': '{name}' holds a value, not a section")
            node = child
        node[leaf] = value
    return raw


def parse_settings(model: type[S], raw: dict[str, Any], where: str = "config") -> S:
    """Check ``raw`` against ``model``.

    Raises:
        SettingsError: one line per wrong key or value, each with its dotted name and, for a misspelt key, a suggestion.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(model, dict(item)) for item in error.errors()]
        raise SettingsError(f"{where}: " + "; ".join(lines)) from None


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``1e-4`` as a string; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _explain(model: type[BaseModel], item: dict[str, Any]) -> str:
    location = [str(part) for part in item["loc"]]
    dotted = ".".join(location) or "settings"
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key '{dotted}'; {hint}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"'{dotted}' is not given"
    if item["type"] == "value_error" and isinstance(item.get("input"), dict):
        return message  # about several settings together, which the message names
    return f"'{dotted}' = {item.get('input')!r}: {message}"


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    node: type[BaseModel] = model
    for name in path:
        field = node.model_fields.get(name)
        annotation = field.annotation if field is not None else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        models = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not models:
            return []
        node = models[0]
    return list(node.model_fields)
