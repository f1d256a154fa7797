"""What a check of a run needs to know, from the run's folder: its model, the model before, its data, who was read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.held_out import held_out_rows
from memsieve.filtering.data.rows import Row
from memsieve.filtering.data.small import TrainingPairs, training_pairs
from memsieve.filtering.settings import parse_settings, read_settings
from memsieve.inference.base import base_of_model

__all__ = ["CheckedRun", "model_and_data", "read_run"]

MODELS = ("best", "lora", "pipeline")
"""Folders of a run that hold a model."""


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A finished run.

    Attributes:
        folder: of the run.
        model: the folder of its model that is checked.
        base: the model before fine-tuning, a folder or hub id; None where it is not there any more.
        data: its section of the config, in squares, which drawings are.
        seed: of the run.
        rate: the share of drawings in which a pair may come back (``filter.copy_rate``).
        of_run: it is a run of this package's trainer; else ``folder`` is the model's.
        groups: what the run wrote of each pair (``groups.parquet``), by the name that evidence adds up under.
    """

    folder: Path
    model: Path
    base: str | None
    data: DataConfig
    seed: int
    rate: float
    groups: dict[str, dict[str, Any]]
    of_run: bool = True

    def pairs(self, most: int) -> tuple[TrainingPairs, list[str]]:
        """(the pictures that drawings are compared with, the groups to ask about): of at most ``most`` pairs those with
        the most evidence, then the most exposures."""
        bank = training_pairs(self.data)
        order = sorted(self.groups, key=lambda group: (-_number(self.groups[group], "evidence_max"),
                                                       -_number(self.groups[group], "exposures")))  # fmt: skip
        if bank.whole:
            known = [group for group in order if group in bank.captions]
            known += [group for group in bank.captions if group not in self.groups]
            return bank, [group for group in known if bank.captions[group]][:most]
        wanted = frozenset(order[:most]) or frozenset(list(bank.captions)[:most])
        joined = bank.with_groups(self.data, wanted)
        return joined, [group for group, captions in joined.captions.items() if group in wanted and captions]

    def held_out(self) -> list[Row]:
        """The pairs that were never trained on."""
        return held_out_rows(self.data, self.seed)


def _number(row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    return float(value) if value is not None and value == value else float("-inf")


def read_run(run: Path, model: str | None = None) -> CheckedRun:
    """Read the folder of a run.

    Args:
        run: what ``output`` named.
        model: which of its models: a folder in it, or any. None: the one that the run's end advises, else its last.

    Raises:
        ValueError: it is no finished run, or has no such model.
    """
    if not (run / "config.yaml").is_file():
        raise ValueError(f"RUN: '{run}' holds no config.yaml, so that it is no training run; name its output folder")
    raw = read_settings(run / "config.yaml")
    data = parse_settings(DataConfig, raw.get("data") or {}, where=f"{run / 'config.yaml'}: data")
    folder = _model(run, model)
    groups = {}
    if (run / "groups.parquet").is_file():
        groups = {row["group"]: row for row in pq.read_table(run / "groups.parquet").to_pylist()}
    rate = (raw.get("filter") or {}).get("copy_rate", 0.01)
    seed = (raw.get("train") or {}).get("seed", 0)
    return CheckedRun(run, folder, _base(folder, raw), data.in_squares(), int(seed), float(rate), groups)


def model_and_data(model: str, data: DataConfig, base: str | None, rate: float, seed: int = 0) -> CheckedRun:
    """Any model and the data that it was trained on, to be checked as a run is.

    Args:
        model: a pipeline folder, a hub id, a LoRA.
        data: its training pairs; ``held_out_path`` names pairs that it was not trained on.
        base: the model before fine-tuning.
        rate: the share of drawings in which a pair may come back.

    Raises:
        ValueError: there is neither a base nor a held-out pair, so that nothing says what an unlearned caption draws.
    """
    if base is None and data.held_out_path is None:
        raise ValueError(
            "--model: nothing says what it would draw of captions that it has not learned; name the model before "
            "fine-tuning with --base, or pairs that it was not trained on with --held-out"
        )
    return CheckedRun(Path(model), Path(model), base, data.in_squares(), seed, rate, {}, of_run=False)


def _model(run: Path, named: str | None) -> Path:
    if named is not None:
        for folder in (run / named, Path(named)):
            if folder.is_dir():
                return folder
        raise ValueError(f"--model: '{named}' is neither a folder in '{run}' nor one of its own")
    use: Any = None
    if (run / "summary.json").is_file():
        use = json.loads((run / "summary.json").read_text(encoding="utf-8")).get("use")
    names = [use["folder"]] if isinstance(use, dict) and use.get("folder") else []
    for name in (*names, "lora", "pipeline", "best"):
        if (run / name).is_dir() and name in MODELS:
            return run / name
    raise ValueError(
        f"RUN: '{run}' holds no model (none of {', '.join(MODELS)}); let the run end with checkpoint.export: true, or "
        "name a model with --model"
    )


def _base(model: Path, raw: dict[str, Any]) -> str | None:
    named = base_of_model(model)
    path = (raw.get("model") or {}).get("path")
    if named is None and isinstance(path, str) and Path(path).expanduser().is_dir():
        return path
    return named
