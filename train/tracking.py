"""Metrics: always to metrics.jsonl, and to the trackers that are asked for, which accelerate begins."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from memsieve.filtering.files import read_json_lines, write_whole
from memsieve.train.config import RunConfig
from memsieve.train.tracker_kinds import KINDS, Place
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
        self.names = list(config.tracking.report_to)
        if self.names:
            self._start(resume_step)

    def _cut(self, resume_step: int) -> None:
        if not self.path.exists():
            return
        rows = read_json_lines(self.path, note=_say) if resume_step else []
        kept = [row for row in rows if row.get("step", 0) <= resume_step]
        write_whole(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def _start(self, step: int) -> None:
        tracking, folder = self.config.tracking, self.config.output
        place = Place(folder, tracking.name, self._identity(), step)
        options = {name: KINDS[name].options(place) for name in self.names}

        def begin(more: dict[str, Any]) -> None:
            self.accelerator.trackers.clear()  # of a start that failed
            given = {name: {**its, **more} if name == "wandb" else its for name, its in options.items()}
            self.accelerator.init_trackers(tracking.project, init_kwargs=given)

        # Only the main process talks to a tracker.
        if self.active and "wandb" in self.names:
            start_wandb(begin, "tracking.report_to: [wandb]")
        else:
            begin({})
        if not self.active:
            return
        settings = self.config.model_dump(mode="json")
        for name, tracker in self._trackers():
            KINDS[name].settings(tracker, settings)
            KINDS[name].begun(tracker, place)

    def _identity(self) -> str:
        """What the trackers know the run by; the same when it is resumed."""
        file = self.config.output / "wandb_id"  # as runs of 0.1 have it
        if not self.active:
            return ""
        if not file.exists():
            write_whole(file, secrets.token_hex(4))
        return file.read_text(encoding="utf-8").strip()

    def _trackers(self) -> list[tuple[str, Any]]:
        return [(name, self.accelerator.get_tracker(name)) for name in self.names] if self.active else []

    def log(self, values: dict[str, float], step: int) -> None:
        """Scalars under ``train/``, ``mem/``, ``val/``."""
        if not self.active:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
        if self.names:
            self.accelerator.log(values, step=step)

    def histograms(self, name: str, values: dict[str, np.ndarray], step: int) -> None:
        """One histogram per t-bin, named ``NAME/t_LOW_HIGH``."""
        for kind, tracker in self._trackers():
            KINDS[kind].histograms(tracker, name, values, step)

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """A table of at most ``top_k`` rows; captions and pictures only where ``log_samples`` is on."""
        for kind, tracker in self._trackers():
            KINDS[kind].table(tracker, name, columns, rows[: self.config.tracking.top_k], step)

    def images(self, name: str, path: Path, step: int) -> None:
        """A validation grid."""
        for kind, tracker in self._trackers():
            with Image.open(path) as picture:
                KINDS[kind].image(tracker, name, picture.convert("RGB"), step)

    def close(self) -> None:
        """End the trackers' runs."""
        if self.names:
            self.accelerator.end_training()


def _say(text: str) -> None:
    Console(stderr=True, emoji=False).print(text, style="yellow", markup=False, soft_wrap=True)
