"""Trains, audits and checks a random model of each family, and says how long it took and how much memory."""

from __future__ import annotations

import argparse
import io
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from check_models import FAMILIES, RESOLUTION, build
from PIL import Image
from rich.console import Console
from rich.table import Table

from filtering.audit.config import AuditConfig
from filtering.audit.score import score_shards
from filtering.audit.table import load_scores
from filtering.denoisers.registry import denoiser_of
from inference.detect import detect
from inference.detectors import DetectSettings
from inference.guided import open_model
from inference.prompts import ordinary_prompts
from train.config import RunConfig
from train.loop import fit
from train.setup import set_up

console = Console(emoji=False, width=None if sys.stdout.isatty() else 110)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", choices=sorted(RESOLUTION), default="small")
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated")
    parser.add_argument("--steps", type=int, default=40, help="of training, per family")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=8.0, help="no family is begun after this")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_checks"))
    options = parser.parse_args()
    unknown = set(options.families.split(",")) - set(FAMILIES)
    if unknown:
        parser.error(f"--families: '{sorted(unknown)[0]}' is not known; known: {', '.join(FAMILIES)}")
    if options.size != "tiny" and not torch.cuda.is_available():
        parser.error("there is no GPU; --size tiny runs on a CPU")
    return options


def write_shards(folder: Path, count: int, side: int, first: int) -> None:
    """``count`` distinct pairs of coloured waves."""
    folder.mkdir(parents=True, exist_ok=True)
    y, x = np.mgrid[0:side, 0:side] / side
    with webdataset.TarWriter(str(folder / "00000.tar")) as tar:
        for number in range(first, first + count):
            rate = np.random.default_rng(number).uniform(1, 12, (3, 3))
            waves = np.stack([np.sin(rate[c, 0] * x + rate[c, 1] * y + rate[c, 2]) for c in range(3)], axis=-1)
            stream = io.BytesIO()
            Image.fromarray(((waves + 1) * 127.5).astype(np.uint8)).save(stream, "PNG")
            tar.write({"__key__": f"{number:05d}", "png": stream.getvalue(), "txt": f"wave {number}".encode()})


def peak_gib() -> float:
    """Most memory so far: of the GPU since the last reset, or of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed(action: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, seconds, peak memory in GiB)."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    result = action()
    return result, time.perf_counter() - began, peak_gib()


def check(family: str, options: argparse.Namespace) -> dict[str, Any]:
    """One family: train with the filter, audit what came out, look for memorised prompts."""
    side, folder = RESOLUTION[options.size], options.out / family
    pipe = build(family, options.size)
    distilled = denoiser_of(pipe).distilled is not None
    parameters = sum(p.numel() for p in (getattr(pipe, "unet", None) or pipe.transformer).parameters())
    pipe.save_pretrained(folder / "model", safe_serialization=True)
    del pipe
    config = RunConfig.model_validate({
        "output": str(folder / "run"),
        "model": {"path": str(folder / "model")},
        "data": {"path": str(options.out / "data" / "train"), "held_out_path": str(options.out / "data" / "held_out"),
                 "resolution": side, "shuffle_buffer": 16, "streams": 1},
        "filter": {"false_drop_rate": 0.1, "record": [] if distilled else ["magnitude"]},
        "train": {"steps": options.steps, "batch_size": options.batch_size,
                  "mixed_precision": "bf16" if torch.cuda.is_available() else "no"},
        "optimizer": {"lr": 1e-4},
        "validation": {"prompts": ["wave 1"], "sampling_steps": 4, "held_out_pairs": 8, "held_out_draws": 1},
        "checkpoint": {"every": 0},
    })  # fmt: skip
    summary, train_s, train_gib = timed(lambda: fit(set_up(config)))
    exported = folder / "run" / "pipeline"
    audit = AuditConfig.model_validate({
        "model": str(exported), "draws": 2, "data": {"path": str(options.out / "data" / "train"), "resolution": side},
    })  # fmt: skip
    _, audit_s, audit_gib = timed(lambda: score_shards(audit, folder / "audit"))
    found: dict[str, Any] = {
        "parameters": parameters,
        "train_seconds": train_s,
        "step_seconds": summary["step_seconds_median"],
        "train_gib": train_gib,
        "heldout_loss": summary["heldout_loss"],
        "audit_seconds": audit_s,
        "audit_gib": audit_gib,
        "audited": int(np.isfinite(load_scores(folder / "audit").draws["loss"]).any(axis=1).sum()),
    }
    if not distilled:
        prompts, ordinary = [f"wave {n}" for n in range(8)], ordinary_prompts()[:24]
        settings = DetectSettings(resolution=side)
        opened = open_model(exported)
        results, found["detect_seconds"], found["detect_gib"] = timed(
            lambda: detect(opened, prompts, settings=settings, ordinary=ordinary, false_positive_rate=0.05)
        )
        found["detected"] = sum(result.error is None for result in results)
    return found


def table(results: dict[str, dict[str, Any]], size: str) -> Table:
    """What is printed, and what docs/benchmarks may show."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    made = Table(title=f"{size} models, {RESOLUTION[size]} pixels, {where}, torch {torch.__version__}")
    for column in ("family", "parameters", "s per step", "training GiB", "audit, pairs/s", "audit GiB", "detect, s"):
        made.add_column(column, justify="left" if column == "family" else "right")
    for family, r in results.items():
        if "skipped" in r:
            made.add_row(family, r["skipped"])
            continue
        detected = f"{r['detect_seconds']:.2f}" if "detect_seconds" in r else "distilled"
        made.add_row(
            family, f"{r['parameters'] / 1e6:.1f} M", f"{r['step_seconds']:.3f}", f"{r['train_gib']:.2f}",
            f"{r['audited'] / r['audit_seconds']:.1f}", f"{r['audit_gib']:.2f}", detected,
        )  # fmt: skip
    return made


def main() -> int:
    """Exit code 1 where a family failed or did not get its turn."""
    options = arguments()
    began = time.monotonic()
    for split, first in (("train", 0), ("held_out", 1000)):
        write_shards(options.out / "data" / split, 64 if split == "train" else 32, RESOLUTION[options.size], first)
    results: dict[str, dict[str, Any]] = {}
    for family in options.families.split(","):
        if time.monotonic() - began > 60 * options.minutes:
            results[family] = {"skipped": "no time left"}
            continue
        console.print(f"{family} ...", highlight=False)
        results[family] = check(family, options)
    console.print(table(results, options.size))
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return int(any("skipped" in result for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
