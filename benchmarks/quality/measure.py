"""What a finished cell is asked: what was dropped, pair by pair, what comes back, how well it fits held-out pairs."""

from __future__ import annotations

import json
import math
import os
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.common import cpu_name
from memsieve.filtering.data.group_table import group_table
from memsieve.filtering.data.held_out import held_out_rows
from memsieve.filtering.denoisers.stable_diffusion import StableDiffusionDenoiser
from memsieve.filtering.ledger import read_ledger
from memsieve.inference.copies.judge import CopyJudge
from memsieve.inference.copies.probe import shard_images
from memsieve.inference.copies.similarity import build_similarity
from memsieve.inference.generate import GenerateSettings, generate, load_pipeline
from memsieve.train.batch import build_batch
from memsieve.train.config import RunConfig
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.visits import draw_visits, plain_samples

__all__ = ["copies", "decisions", "held_out_losses", "machine", "thresholds", "write"]

LATE = 0.25
"""A pair is dropped where at least half of the last quarter of its visits trained nothing, or it ends condemned."""
UNSCORED = -9.0
"""Evidence of a group that was never measured: below all that were."""


def decisions(run: Path, data: Path, part: str, case: str, score: str, groups: Path | None = None) -> dict[str, Any]:
    """Per pair: visits, how many trained, whether it was dropped, the visit that was dropped first, its score.

    Pairs with hard cases or planted ones come one by one, ``clean`` and ``rare`` ones as columns.
    """
    truth = pq.read_table(data / "truth.parquet").to_pylist()
    stream = [row for row in truth if row["part"] == ("oracle" if case == "nothing" else "stream")]
    pairs = {row["pair"]: row for row in stream}
    standings = _standings(run) if score == "evidence" else {}
    joined = group_table(str(groups)) if groups is not None else {}
    left = Counter(row["pair"] for row in truth if row["part"] == part)
    whole = Counter(row["pair"] for row in stream)
    visits = _visits(run, {row["key"]: row["pair"] for row in truth})
    members: dict[str, Counter[str]] = {name: Counter() for name in pairs}
    for row in stream:
        members[row["pair"]][joined.get(row["group"], row["group"])] += 1
    found: dict[str, list[dict[str, Any]]] = {}
    for name, row in sorted(pairs.items()):
        told: dict[str, Any] = {"pair": name, "case": row["case"], "repeats": row["repeats"]}
        seen = visits.get(name)
        standing = [(standings.get(group, (UNSCORED, False)), count) for group, count in members[name].items()]
        condemned = sum(count for (_, guilty), count in standing if guilty) / whole[name]
        if seen is not None:
            told |= _of_visits(seen) | {"condemned": round(condemned, 3)}
            told["dropped"] = told["late"] >= 0.5 or condemned >= 0.5
        removed = whole[name] - left[name]
        numbers = {
            "evidence": sum(value * count for (value, _), count in standing) / whole[name],
            "margin": seen["margin"] if seen is not None else math.nan,
            "exposures": float(told.get("visits", 0)),
            "removed": float(removed),
        }
        if score == "removed":
            told["dropped"] = removed * 2 >= whole[name]
        if score:
            told["score"] = _short(numbers[score])
        found.setdefault("singles" if row["repeats"] == 1 else "pairs", []).append(told)
    return {"pairs": found.get("pairs", []), "singles": _columns(found.get("singles", []))}


def _standings(run: Path) -> dict[str, tuple[float, bool]]:
    """Group -> largest evidence, and whether it ended condemned."""
    rows = pq.read_table(run / "groups.parquet").to_pylist()
    return {r["group"]: (max(r["evidence_max"], UNSCORED), r["condemned_step"] >= 0) for r in rows}


def _visits(run: Path, pair_of: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Pair -> its visits in order: did each train, and the mean of the rule's margin."""
    if not (run / "ledger").is_dir():
        return {}
    table = read_ledger(run / "ledger").select(
        ["key", "weight", "action", "magnitude", "score", "evidence", "threshold"]
    )
    found: dict[str, dict[str, Any]] = {}
    for row in table.to_pylist():
        name = pair_of.get(row["key"])
        if name is None or row["action"] in ("failed", "held_out"):
            continue
        entry = found.setdefault(name, {"trained": [], "margins": []})
        entry["trained"].append(row["weight"] > 0)
        entry["margins"].append(_margin(row))
    for entry in found.values():
        usable = [value for value in entry["margins"] if value is not None]
        entry["margin"] = float(np.mean(usable)) if usable else math.nan
    return found


def _margin(row: dict[str, Any]) -> float | None:
    """How far a visit lies beyond the rule: log m / tau for the paper's, its own number for a rival's."""
    tau = row["threshold"]
    if row["magnitude"] is not None and tau and math.isfinite(tau) and tau > 0.0:
        return math.log(max(row["magnitude"], 1e-12) / tau)
    return row["evidence"] if tau == 0.0 else row["score"]  # type: ignore[no-any-return]


def _of_visits(seen: dict[str, Any]) -> dict[str, Any]:
    trained: list[bool] = seen["trained"]
    last = trained[-max(1, math.ceil(LATE * len(trained))) :]
    first = next((i for i, kept in enumerate(trained) if not kept), None)
    return {"visits": len(trained), "trained": sum(trained), "late": round(1.0 - sum(last) / len(last), 3),
            "first": first}  # fmt: skip


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Many pairs in few bytes: by case, their scores and who of them was dropped."""
    table: dict[str, Any] = {}
    for case in sorted({row["case"] for row in rows}):
        mine = [row for row in rows if row["case"] == case]
        table[case] = {"count": len(mine)}
        for name in ("score", "visits"):
            if any(name in row for row in mine):
                table[case][name] = [row.get(name) for row in mine]
        if any("dropped" in row for row in mine):
            table[case]["dropped"] = [i for i, row in enumerate(mine) if row.get("dropped")]
    return table


def thresholds(run: Path, data: Path, passes: int, least: int = 50) -> dict[str, Any]:
    """tau of the paper's rule, on a run that it did not touch: ``best`` has the largest difference between the share
    of visits of pairs with ``least`` exposures or more that it drops and that of ordinary pairs' (Youden's index);
    ``five`` drops 5 % of ordinary pairs' visits. With each the two shares."""
    truth = {row["key"]: row for row in pq.read_table(data / "truth.parquet").to_pylist() if row["part"] == "stream"}
    rows = read_ledger(run / "ledger").select(["key", "magnitude"]).to_pylist()
    both = {True: [], False: []}  # type: dict[bool, list[float]]
    for row in rows:
        repeats = truth[row["key"]]["repeats"]
        if row["magnitude"] is not None and (repeats == 1 or repeats * passes >= least):
            both[repeats > 1].append(row["magnitude"])
    planted, ordinary = (np.array(both[kind]) for kind in (True, False))
    grid = np.unique(np.quantile(np.concatenate([planted, ordinary]), np.linspace(0.02, 0.995, 196)))
    best = grid[np.argmax([(planted > tau).mean() - (ordinary > tau).mean() for tau in grid])]
    found: dict[str, Any] = {}
    for name, tau in (("best", best), ("five", np.quantile(ordinary, 0.95))):
        found[name] = round(float(tau), 4)
        found[f"{name}_shares"] = [_short(float((kind > tau).mean())) for kind in (planted, ordinary)]
    return found


@torch.no_grad()
def held_out_losses(pipeline: Path, config: RunConfig, draws: int) -> list[float]:
    """Denoising loss of each held-out pair, the mean of ``draws`` (t, noise) that are the same for all methods."""
    denoiser = StableDiffusionDenoiser(str(pipeline), None)
    model: Any = denoiser.model
    model.eval()
    rows = held_out_rows(config.data.model_copy(update={"held_out_max": 100_000}), 0)
    rows.sort(key=lambda row: row.group)
    losses, settings = np.zeros(len(rows)), DrawSettings(seed=0, resolution=config.data.resolution)
    for draw in range(draws):
        for start in range(0, len(rows), 16):
            part = rows[start : start + 16]
            samples = plain_samples(part, settings, [(f"held-out loss {row.group}", draw, 0) for row in part])
            batch = build_batch(denoiser, draw_visits(denoiser, samples, settings))
            prediction = denoiser.predict(model, batch.noisy, batch.timesteps, batch.conditioning)
            target = denoiser.target(batch.latents, batch.noise, batch.timesteps)
            error = (prediction.float() - target).square().flatten(1).mean(1)
            losses[start : start + len(part)] += error.double().numpy() / draws
    return [_short(float(value), 5) for value in losses]


def copies(pipeline: Path, data: Path, protocol: Any, seed: int) -> dict[str, Any]:
    """Generations for the captions of planted and of some ordinary pairs: which are copies by the strict judge, and
    whose nearest training image is one of their own pair's. Each list has one number a generation."""
    rows = [r for r in pq.read_table(data / "truth.parquet").to_pylist() if r["part"] == "stream"]
    first = {row["pair"]: row for row in rows}
    planted = sorted((row for row in first.values() if row["repeats"] > 1), key=lambda row: row["pair"])
    clean = sorted((row for row in first.values() if row["case"] == "clean"), key=lambda row: row["pair"])
    chosen = np.random.default_rng(seed).permutation(len(clean))[: protocol.ordinary]
    prompts = [*planted, *[clean[i] for i in sorted(chosen)]]
    images = _draw(pipeline, [row["prompt"] for row in prompts], protocol, seed)
    verdicts = _judge(data, rows).judge(images, [row["pair"] for row in prompts for _ in range(protocol.images)])
    each = [verdicts[i : i + protocol.images] for i in range(0, len(verdicts), protocol.images)]
    told = {row["pair"]: {"case": row["case"], "copies": [int(v.is_copy) for v in mine],
                          "own": [int(v.nearest_is_own) for v in mine]}
            for row, mine in zip(prompts, each, strict=True)}  # fmt: skip
    return {"generations": told}


def _draw(pipeline: Path, captions: list[str], protocol: Any, seed: int) -> torch.Tensor:
    from diffusers import DPMSolverMultistepScheduler

    pipe = load_pipeline(pipeline)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    settings = GenerateSettings(
        steps=protocol.sampling_steps, batch=24, seed=seed, guidance_scale=protocol.guidance_scale, scheduler="own"
    )
    return generate(pipe, captions, protocol.images, settings, progress=False)


def _judge(data: Path, rows: list[dict[str, Any]]) -> CopyJudge:
    """Over every distinct image of the stream, whatever the method trained on: own means of one's own pair."""
    known = {row["key"]: row for row in rows}
    distinct = {known[key]["group"]: (key, pixels) for key, pixels in shard_images(data / "stream")}
    judge = CopyJudge(
        build_similarity("pixel_l2"),
        torch.stack([pixels for _, pixels in distinct.values()]),
        [known[key]["pair"] for key, _ in distinct.values()],
    )
    judge.calibrate(torch.stack([pixels for _, pixels in shard_images(data / "held_out")]))
    return judge


def machine() -> dict[str, Any]:
    """Where this ran."""
    return {"processor": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "python": platform.python_version()}  # fmt: skip


def write(path: Path, value: dict[str, Any]) -> None:
    """Whole or not at all; lists of numbers on one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f" {json.dumps(name)}: {_line(part)}" for name, part in value.items()]
    temporary = path.with_suffix(f".new{os.getpid()}")
    temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    os.replace(temporary, path)


def _line(part: Any) -> str:
    if isinstance(part, list) and part and isinstance(part[0], dict):
        return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in part) + "\n ]"
    return json.dumps(part)


def _short(value: float, digits: int = 4) -> Any:
    """A number for JSON: rounded; None where there is none."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
