"""What a folder is, by the files that memsieve's own commands leave: for messages, and before anything is written."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from memsieve.filtering.settings import SettingsError

__all__ = [
    "AUDIT",
    "RUN_MARKS",
    "TRAINING",
    "Kind",
    "folder_kind",
    "is_training_run",
    "refuse_other_kind",
    "what_it_is",
]

RUN_MARKS: Final = ("metrics.jsonl", "ledger", "groups.parquet")
"""The records of a training run."""
MOST_SUMMARY_BYTES: Final = 2**20
MOST_CHILDREN: Final = 1000
"""Folders below a folder that are looked at for runs."""


@dataclass(frozen=True, slots=True)
class Kind:
    """``name`` with its article; ``way``: the command that takes such a folder, with its path for ``{}``."""

    name: str
    way: str


TRAINING: Final = Kind("a training run", "memsieve report {}")
AUDIT: Final = Kind("an audit", "memsieve audit report {}")
INDEX: Final = Kind("an index", "memsieve verify --index {} --images IMAGES")
DETECTION: Final = Kind("a result of memsieve detect", "look at the files in {}")
PIPELINE: Final = Kind("a diffusers pipeline", "memsieve detect --model {} --prompts PROMPTS")
LORA: Final = Kind("a LoRA", "memsieve detect --model {} --prompts PROMPTS")
DATASET: Final = Kind(
    "a dataset with planted pairs", "memsieve check --model MODEL --data {0}/train --held-out {0}/held_out"
)
SHARDS: Final = Kind("a folder of shards", "memsieve audit score --data {} --data-only --out AUDIT")


def _has(*names: str) -> Callable[[Path], bool]:
    return lambda folder: all((folder / name).exists() for name in names)


def is_training_run(folder: Path) -> bool:
    """Whether a training run left its records in ``folder``; a config.yaml alone is no record."""
    if (folder / "metrics.jsonl").is_file() or next((folder / "ledger").glob("*.parquet"), None) is not None:
        return True
    return _is_run_table(folder / "groups.parquet") or _is_run_summary(folder / "summary.json")


def _is_run_table(file: Path) -> bool:
    """``memsieve audit groups`` writes a table that may have this name too."""
    try:
        return "exposures" in pq.read_schema(file).names
    except (OSError, pa.ArrowException):
        return False


def _is_run_summary(file: Path) -> bool:
    """Audits and detections write a summary.json too, and so may anybody."""
    try:
        if file.stat().st_size > MOST_SUMMARY_BYTES:
            return False
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and {"read", "trained"} <= value.keys()


_KINDS: Final[tuple[tuple[Kind, Callable[[Path], bool]], ...]] = (
    (AUDIT, _has("audit.json")),
    (TRAINING, is_training_run),
    (INDEX, _has("index.json")),
    (DETECTION, _has("settings.json", "scores.jsonl")),
    (PIPELINE, _has("model_index.json")),
    (LORA, _has("base_model.json")),
    (DATASET, _has("truth.parquet")),
    (SHARDS, lambda folder: next(folder.glob("*.tar"), None) is not None),
)


def folder_kind(folder: Path) -> Kind | None:
    """What ``folder`` is; None where it is nothing that is known."""
    if not folder.is_dir():
        return None
    return next((kind for kind, fits in _KINDS if fits(folder)), None)


def what_it_is(folder: Path) -> str | None:
    """A part of a sentence: what ``folder`` is, or lies in, or holds, with the command for that; None where nothing is
    known of it."""
    if not folder.is_dir():
        return None
    kind = folder_kind(folder)
    if kind is not None:
        return f"it is {kind.name}: {_command(kind, folder)}"
    runs = [(child, found) for child in _children(folder) if (found := folder_kind(child)) in (TRAINING, AUDIT)]
    if runs:
        shown = ", ".join(_command(found, child) for child, found in runs[:3] if found is not None)
        return f"it holds runs or audits ({len(runs)}); name one of them: {shown}{', ...' if len(runs) > 3 else ''}"
    parent = folder.absolute().parent
    above = folder_kind(parent)
    if above in (TRAINING, AUDIT) and above is not None:
        return f"it is a part of {above.name}: {_command(above, parent)}"
    return None


def refuse_other_kind(folder: Path, own: Kind, option: str) -> None:
    """Refuse to write into a folder that another command wrote: both keep a summary.json or a report.html there.

    Args:
        own: the kind that may be there.

    Raises:
        SettingsError: ``folder`` is a training run, an audit or a detection, and not ``own``.
    """
    if not folder.is_dir() or dict(_KINDS)[own](folder):
        return
    kind = folder_kind(folder)
    if kind in (TRAINING, AUDIT, DETECTION) and kind is not None:
        raise SettingsError(
            f"{option}: '{folder}' is {kind.name}, whose files would be written over; name another folder (for what is "
            f"there: {_command(kind, folder)})"
        )


def _children(folder: Path) -> list[Path]:
    try:
        found = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    except OSError:
        return []
    return found[:MOST_CHILDREN]


def _command(kind: Kind, folder: Path) -> str:
    return kind.way.format(shlex.quote(str(folder)))
