"""Metrics: always to metrics.jsonl, and to W&B through accelerate's trackers where asked for."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from memsieve.filtering.files import read_json_lines, write_whole
from memsieve.train.config import RunConfig
from memsieve.train.wandb_start import start_wandb

__all__ = ["Tracker"]


class Tracker:
    """One per run, used on the main process only; on the others every call does nothing.

    Args:
        config: the run's settings.
        accelerator: whose trackers are used.
        resume_step: rows logged after this step belong to work that is done again and are cut.
    """

    def __init__(self, config: RunConfig, accelerator: Any, resume_step: int = 0) -> None:
        self.config, self.accelerator = config, accelerator
        self.active = bool(accelerator.is_main_process)
        self.path = config.output / "metrics.jsonl"
        if self.active:
            self._cut(resume_step)
        if config.tracking.wandb:
            self._start_wandb()

    def _cut(self, resume_step: int) -> None:
        if not self.path.exists():
            return
        rows = read_json_lines(self.path, note=_say) if resume_step else []
        kept = [row for row in rows if row.get("step", 0) <= resume_step]
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def _start_wandb(self) -> None:
        id_file = self.config.output / "wandb_id"
        if self.active and not id_file.exists():
            import secrets

            write_whole(id_file, secrets.token_hex(4))
        options: dict[str, Any] = {"dir": str(self.config.output), "resume": "allow"}
        if self.active:
            options["id"] = id_file.read_text().strip()
        if self.config.tracking.name:
            options["name"] = self.config.tracking.name

        def begin(more: dict[str, Any]) -> None:
            self.accelerator.trackers.clear()  # of a start that failed
            self.accelerator.init_trackers(
                self.config.tracking.project,
                config=self.config.model_dump(mode="json"),
                init_kwargs={"wandb": {**options, **more}},
            )

        # Only the main process talks to W&B.
        start_wandb(begin, "tracking.wandb") if self.active else begin({})

    def log(self, values: dict[str, float], step: int) -> None:
        """Scalars under ``train/``, ``mem/``, ``val/``."""
        if not self.active:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
        if self.config.tracking.wandb:
            self.accelerator.log(values, step=step)

    def histograms(self, name: str, values: dict[str, np.ndarray], step: int) -> None:
        """One histogram per t-bin, named ``NAME/t_LOW_HIGH``."""
        if self.active and self.config.tracking.wandb:
            import wandb

            self.accelerator.log(
                {f"{name}/{label}": wandb.Histogram(list(map(float, column))) for label, column in values.items()},
                step=step,
            )

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """A table of at most ``top_k`` rows; captions and pictures only where ``log_samples`` is on."""
        if self.active and self.config.tracking.wandb:
            tracker = self.accelerator.get_tracker("wandb")
            tracker.log_table(name, columns=columns, data=rows[: self.config.tracking.top_k], step=step)

    def images(self, name: str, path: Path, step: int) -> None:
        """A validation grid."""
        if self.active and self.config.tracking.wandb:
            import wandb

            self.accelerator.log({name: wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """End the trackers' runs."""
        if self.config.tracking.wandb:
            self.accelerator.end_training()


def _say(text: str) -> None:
    Console(stderr=True, emoji=False).print(text, style="yellow", markup=False, soft_wrap=True)
