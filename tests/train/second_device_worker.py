"""One job of training, auditing and checking a tiny model of a family, on a device that is not the processor.

python -m tests.train.second_device_worker JOB FAMILY FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.audit.table import load_scores
from memsieve.inference.detect.detect import detect
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.explain.explain import explain
from memsieve.inference.guard.guard import MemorizationGuard
from memsieve.inference.guard.settings import GuardSettings
from memsieve.inference.minimize.minimize import minimize
from memsieve.inference.minimize.settings import MinimizeSettings
from memsieve.inference.opened import open_model
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up
from tests import second_device
from tests.inference.guard.test_call import guidance
from tests.tiny_models import DISTILLED, side_of, tiny_family
from tests.train.conftest import tiny_config, write_shards

JOBS: Final[dict[str, dict[str, Any]]] = {
    "batch": {"filter": {"record": ["magnitude"]}, "train": {"noise_offset": 0.1}, "model": {"ema": True},
              "validation": {"prompts": ["pair 1"], "sampling_steps": 2}},
    "sieve": {"filter": {"apply": "sieve", "record": []}, "train": {"snr_gamma": 5.0}},
    "lora": {"filter": {"record": ["loss_gap"]}, "model": {"lora": {"rank": 2}}, "train": {"cache": "CACHE"},
             "validation": {"prompts": ["pair 1"], "sampling_steps": 2}},
}  # fmt: skip


def train(job: str, family: str, folder: Path) -> Path:
    """Train half of the run, resume it, and return the exported pipeline or adapter."""
    sections = {name: dict(values) for name, values in JOBS[job].items()}
    if family in DISTILLED:
        sections["filter"]["record"] = []
    if "cache" in sections.get("train", {}):
        sections["train"]["cache"] = str(folder / "cache")
    sections["checkpoint"] = {"every": 3, "export": True}
    for steps in (3, 6):
        sections["train"] = {**sections.get("train", {}), "steps": steps}
        sections["data"] = {"resolution": side_of(family)}
        session = set_up(tiny_config(folder / "model", folder / "data", folder / "run", **sections))
        assert session.accelerator.device == torch.device(second_device.FAR)
        assert next(session.model.parameters()).device == torch.device(second_device.FAR)
        assert fit(session)["steps"] == steps
        session.accelerator.free_memory()
    return folder / "run" / ("lora" if job == "lora" else "pipeline")


def audit(model: Path, data: Path, folder: Path, side: int) -> None:
    """Every pair has a score."""
    config = AuditConfig.model_validate(
        {"model": str(model), "draws": 2, "data": {"path": str(data), "resolution": side}}
    )
    score_shards(config, folder, device=second_device.FAR)
    assert torch.isfinite(torch.as_tensor(load_scores(folder).draws["loss"])).any(1).all()


def check(model: Path, side: int) -> None:
    """Detect, explain and minimise one prompt."""
    opened = open_model(model, device=second_device.FAR)
    settings = DetectSettings(resolution=side)
    ordinary = [f"pair {n}" for n in range(20, 40)]
    (found,) = detect(opened, ["pair 1"], settings=settings, ordinary=ordinary, false_positive_rate=0.05)
    assert found.error is None
    explain(opened, "pair 1", settings=settings, at_steps=[0])
    two = MinimizeSettings(iterations=2)
    minimize(opened, "pair 1", 1e-6, how=two, settings=settings)
    pipe = opened.denoiser.pipeline()
    pipe.set_progress_bar_config(disable=True)
    guard = MemorizationGuard(
        pipe, action="minimize", threshold=1e-6, ordinary=ordinary, settings=GuardSettings(minimize=two)
    )
    guard(prompt="pair 1", num_inference_steps=2, height=side, width=side, **guidance(pipe))
    assert guard.report.flagged == [True]


def main() -> None:
    """Mixing is tried first: a device that lets it pass would show nothing."""
    job, family, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    tiny_family(family).save_pretrained(folder / "model", safe_serialization=True)
    write_shards(folder / "data" / "train", 16, copies=16)
    write_shards(folder / "data" / "held_out", 24, first=1000)
    second_device.install()
    with pytest.raises(RuntimeError, match="on the same device"):
        torch.ones(2, device=second_device.FAR) + torch.ones(2)
    model = train(job, family, folder)
    audit(model, folder / "data" / "train", folder / "audit", side_of(family))
    if family not in DISTILLED:
        check(model, side_of(family))
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
