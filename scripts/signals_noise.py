"""Is it harmless that scored visits take their (t, noise) from a fixed set of draws, as a looked-up reference needs?

Two runs of each seed, alike but for that: ``fixed``, every visit measured and its draw one of the audit's 16;
``fresh``, drawn anew. Nobody is dropped, so that both make the same updates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from false_drop_runs import SHARDS, build_data

from filtering.audit.config import AuditConfig
from filtering.audit.score import score_shards
from filtering.settings import load_settings
from inference.probe import judge_for, probe_model, prompts_of
from train.config import RunConfig
from train.loop import fit
from train.setup import set_up

__all__ = ["KINDS", "noise_cell"]

ROOT = Path(__file__).resolve().parent.parent
BASE = ROOT / "assets" / "tiny-sd"
KINDS = ("fixed", "fresh")
STEPS, DRAWS, PROMPTS = 320, 16, 24


def noise_cell(kind: str, seed: int, work: Path) -> dict[str, Any]:
    """Held-out loss, and how often a generation's nearest training image is its prompt's own."""
    data, run = build_data(work / "data"), work / f"{kind}-{seed}"
    settings = [
        f"output={run}", f"model.path={BASE}", f"data.path={data / 'train' / SHARDS}",
        f"data.held_out_path={data / 'held_out'}", f"train.steps={STEPS}", f"train.seed={seed}",
        "filter.score_after=0", "filter.score_budget=1.0", "filter.max_drop_fraction=1e-9", "filter.pardon_looks=0",
        "validation.held_out_pairs=190", "checkpoint.every=100",
    ]  # fmt: skip
    if kind == "fixed":
        settings.append(f"filter.reference={_audit(data, seed, work)}")
    config = load_settings(RunConfig, ROOT / "configs" / "train" / "openmoji_sieve.yaml", settings)
    session = set_up(config)
    summary = fit(session)
    assert session.filter is not None
    table = session.filter.groups
    _, ordinary = prompts_of(data, ordinary=PROMPTS)
    probe = probe_model(str(run / "pipeline"), ordinary, judge_for(data), seeds=4, guidance_scale=3.0, seed=0)
    return {
        "kind": kind, "seed": seed, "steps": STEPS, "updates": summary["updates"],
        "heldout_loss": summary["heldout_loss"], "drawn": float(np.mean(table["drawn"])),
        "visits": float(np.mean(table["exposures"])), "copy_rate": probe.rate.rate,
    }  # fmt: skip


def _audit(data: Path, seed: int, work: Path) -> Path:
    out = work / f"audit-{seed}"
    paths = [str(data / "train" / SHARDS), str(data / "held_out")]
    config = AuditConfig.model_validate(
        {"data": {"path": paths, "resolution": 32}, "model": str(BASE), "seed": seed, "draws": DRAWS}
    )
    score_shards(config, out, device="cpu")
    return out
