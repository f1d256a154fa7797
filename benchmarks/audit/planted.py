"""An audit of a model that copies: are planted pairs ranked first, and does training without them end the copies?"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import typer

from benchmarks.common import CONFIGS, MODEL
from memsieve.filtering.audit.apply import apply_keep_list
from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.keep_list_files import write_selection
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.audit.select import Rule, select_rows
from memsieve.filtering.audit.summary import summarise
from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji
from memsieve.filtering.settings import load_settings
from memsieve.inference.copies.probe import DRAWN, Prompt, judge_for, probe_model, prompts_of
from memsieve.inference.copies.rate import copy_rate
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up

__all__ = ["Planted"]

PLANT = ["6x1000", "8x200", "8x100", "8x50"]
SIGNALS = (
    "magnitude", "loss_gap", "loss", "reference_ratio", "magnitude_ratio", "loss+reference_ratio",
    "loss+reference_ratio+magnitude_ratio",
)  # fmt: skip
FALSE_DROP_RATE = 0.05
SEEDS, GUIDANCE = 4, 3.0
SAME_STEPS = 40
"""Steps of the two runs that show that a keep-list and the shards made of it train alike."""


class Planted:
    """The study in ``work``; every part is kept there, and the same call goes on with what is missing."""

    def __init__(self, work: Path, steps: int) -> None:
        self.work, self.steps = work, steps
        self.data, self.base = work / "data", MODEL
        self.keep, self.clean = work / "keep.parquet", work / "clean"

    def about(self) -> dict[str, Any]:
        """What the model was trained on, and how it was."""
        self._build()
        summary = self._train("unfiltered", self.data / "train")
        made = json.loads((self.data / "dataset.json").read_text())
        epochs = summary["trained"] / made["train_rows"]
        names = ("plant", "train_rows", "train_groups", "held_out_rows", "train_shards")
        return {**{name: made[name] for name in names}, "steps": self.steps, "epochs": epochs,
                "heldout_loss": summary["heldout_loss"]}  # fmt: skip

    def ranking(self) -> dict[str, Any]:
        """AUC and precision of each signal against the truth."""
        self._audit("base", self.base, ["train", "held_out"])
        tuned = self._audit("tuned", self.work / "runs" / "unfiltered" / "pipeline", ["train"])
        found = {}
        for names in SIGNALS:
            signals = tuple(names.split("+"))
            summary = summarise(
                tuned, signals=signals, reference=self.work / "audit" / "base", truth=self.data / "truth.parquet"
            )
            found[names] = summary.values["truth"]
        return found

    def removal(self) -> dict[str, Any]:
        """What select takes out, what apply writes, and the copies before and after training without it."""
        self._select()
        table = pq.read_table(self.keep, columns=["sha256", "keep"])
        taken = self._taken(zip(table["sha256"].to_pylist(), table["keep"].to_pylist(), strict=True))
        done = apply_keep_list(self.keep, self.clean)
        after = self._train("cleaned", self.clean)
        planted, ordinary = prompts_of(self.data, ordinary=16)
        judge = judge_for(self.data)
        models = {
            "base": self.base,
            **{name: self.work / "runs" / name / "pipeline" for name in ("unfiltered", "cleaned")},
        }
        rates = {}
        for name, model in models.items():
            typer.echo(f"generating: {name}", err=True)
            found = probe_model(
                str(model), [*planted, *ordinary], judge, seeds=SEEDS, settings=replace(DRAWN, guidance_scale=GUIDANCE)
            )
            rates[name] = _by_repeats([*planted, *ordinary], found.verdicts)
        return {
            "false_drop_rate": FALSE_DROP_RATE, "taken": taken, "kept_samples": done.kept,
            "rejected_samples": dict(done.rejected), "copy_rate": rates, "seeds": SEEDS, "guidance_scale": GUIDANCE,
            "heldout_loss": after["heldout_loss"],
        }  # fmt: skip

    def rules(self) -> dict[str, Any]:
        """What other rules would take out, without training on it."""
        self._select()
        base, held_out = (self.work / "audit" / name for name in ("base", "tuned-held-out"))
        both = ("loss", "reference_ratio")
        rules = {
            "--drop-fraction 0.01": Rule(drop_fraction=0.01),
            "--score loss+reference_ratio --drop-fraction 0.01": Rule(both, drop_fraction=0.01),
            **{f"--held-out --false-drop-rate {rate:g}": Rule(false_drop_rate=rate) for rate in (0.01, 0.05)},
            **{
                f"--score loss+reference_ratio --held-out --false-drop-rate {rate:g}": Rule(both, false_drop_rate=rate)
                for rate in (0.01, 0.05)
            },
        }
        found = {}
        for name, rule in rules.items():
            with select_rows(self.work / "audit" / "tuned", rule, reference=base, held_out=held_out) as selection:
                table = selection.table
            found[name] = self._taken(zip(table["sha256"].to_pylist(), table["keep"].to_pylist(), strict=True))
        return found

    def keep_list(self) -> dict[str, Any]:
        """A few steps from data.keep_list and from the shards that were written: the samples, and the weights."""
        self._select()
        apply_keep_list(self.keep, self.clean)
        short = [f"train.steps={SAME_STEPS}", "validation.every=0"]
        runs = {
            "keep_list": self._train("by-keep-list", self.data / "train", [f"data.keep_list={self.keep}", *short]),
            "applied": self._train("by-shards", self.clean, short),
        }
        weights = {
            name: _digest(self.work / "runs" / folder / "pipeline" / "unet")
            for name, folder in (("keep_list", "by-keep-list"), ("applied", "by-shards"))
        }
        return {
            "steps": SAME_STEPS,
            "same_weights": weights["keep_list"] == weights["applied"],
            "trained": {name: run["trained"] for name, run in runs.items()},
            "not_kept": runs["keep_list"]["not_kept"],
        }

    def _build(self) -> None:
        if not (self.data / "dataset.json").is_file():
            build_openmoji(self.data, DatasetPlan(size=32, plant=PLANT), overwrite=True)

    def _train(self, name: str, data: Path, more: list[str] | None = None) -> dict[str, Any]:
        """Train without a filter, unless it was done; a stopped run is gone on with."""
        run = self.work / "runs" / name
        if not ((run / "summary.json").is_file() and (run / "pipeline").is_dir()):
            typer.echo(f"training: {name}", err=True)
            overrides = [
                f"output={run}", f"model.path={self.base}", f"data.path={data}",
                f"data.held_out_path={self.data / 'held_out'}", "filter.enabled=false", f"train.steps={self.steps}",
                *(more or []),
            ]  # fmt: skip
            fit(set_up(load_settings(RunConfig, CONFIGS / "openmoji.yaml", overrides)))
        return dict(json.loads((run / "summary.json").read_text()))

    def _audit(self, name: str, model: Path, splits: list[str]) -> Path:
        out = self.work / "audit" / name
        data = {"path": [str(self.data / split) for split in splits]}
        typer.echo(f"auditing: {name}", err=True)
        outcome = score_shards(AuditConfig.model_validate({"model": str(model), "data": data}), out)
        assert not outcome.failed
        return out

    def _select(self) -> None:
        if self.keep.is_file():
            return
        tuned = self.work / "runs" / "unfiltered" / "pipeline"
        held_out = self._audit("tuned-held-out", tuned, ["held_out"])
        rule = Rule(false_drop_rate=FALSE_DROP_RATE)
        base = self.work / "audit" / "base"
        with select_rows(self.work / "audit" / "tuned", rule, reference=base, held_out=held_out) as selection:
            write_selection(selection, self.keep)

    def _taken(self, rows: Iterable[tuple[str, bool]]) -> dict[str, dict[str, int]]:
        """Pairs taken out, and of how many, by how often they stand in the shards."""
        truth = {row["group"]: row["repeats"] for row in pq.read_table(self.data / "truth.parquet").to_pylist()}
        pairs = {sha[:32]: keep for sha, keep in rows}
        found: dict[str, dict[str, int]] = defaultdict(lambda: {"pairs": 0, "taken": 0})
        for group, keep in pairs.items():
            row = found[str(truth[group])]
            row["pairs"] += 1
            row["taken"] += not keep
        return dict(sorted(found.items(), key=lambda item: int(item[0])))


def _by_repeats(prompts: list[Prompt], verdicts: list[Any]) -> dict[str, Any]:
    """The copy rate of the pairs planted alike, 1 being ordinary pairs."""
    groups: dict[int, list[Any]] = defaultdict(list)
    for number, verdict in enumerate(verdicts):
        groups[max(prompts[number // SEEDS].repeats, 1)].append(verdict)
    return {str(repeats): asdict(copy_rate(found)) for repeats, found in sorted(groups.items())}


def _digest(folder: Path) -> str:
    (file,) = folder.glob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()
