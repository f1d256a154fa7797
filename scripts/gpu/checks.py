"""Trains, audits and checks a random model of each family, and says how long it took and how much memory; then runs the
filter in loops of one's own, on all devices, and says whether they work."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.audit.table import load_scores
from memsieve.filtering.denoisers.registry import denoiser_of
from memsieve.inference.detect.detect import detect
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.opened import open_model
from memsieve.inference.prompts.lists import ordinary_prompts
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up
from scripts.gpu.data import write_shards
from scripts.gpu.models import FAMILIES, RESOLUTION, build, resolution_of
from scripts.gpu.own_loop import check_own_loops, own_loop_table

console = Console(emoji=False, width=None if sys.stdout.isatty() else 110)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", choices=sorted(RESOLUTION), default="small")
    parser.add_argument("--families", default=",".join(FAMILIES), help="comma-separated; '' for none")
    parser.add_argument(
        "--own-loop", action=argparse.BooleanOptionalAction, default=True, help="the README's lines and both examples"
    )
    parser.add_argument("--steps", type=int, default=40, help="of training, per family")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--lora", type=int, metavar="RANK", help="train an adapter on a bfloat16 base, with train.cache"
    )
    parser.add_argument("--quantize", choices=("nf4", "int8"), help="with --lora: hold base and text encoders so")
    parser.add_argument("--optimizer", choices=("adamw", "adamw_8bit", "prodigy"), default="adamw")
    parser.add_argument("--minutes", type=float, default=8.0, help="no family is begun after this; own loops end")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_checks"))
    options = parser.parse_args()
    options.families = [family for family in options.families.split(",") if family]
    unknown = set(options.families) - set(FAMILIES)
    if unknown:
        parser.error(f"--families: '{sorted(unknown)[0]}' is not known; known: {', '.join(FAMILIES)}")
    if not options.families and not options.own_loop:
        parser.error("--families '' and --no-own-loop leave nothing to check; give up one of them")
    if options.quantize and options.lora is None:
        parser.error("--quantize is for the base of an adapter: name --lora RANK too")
    if options.size != "tiny" and not torch.cuda.is_available():
        parser.error("there is no GPU; --size tiny runs on a CPU")
    return options


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
    folder, pairs, side = options.out / family, options.out / "data" / "train", resolution_of(family, options.size)
    pipe = build(family, options.size)
    distilled = denoiser_of(pipe).distilled is not None
    parameters = sum(p.numel() for p in (getattr(pipe, "unet", None) or pipe.transformer).parameters())
    pipe.save_pretrained(folder / "model", safe_serialization=True)
    del pipe
    summary, train_s, train_gib = timed(lambda: fit(set_up(_run_of(family, options, distilled))))
    exported = folder / "run" / ("pipeline" if options.lora is None else "lora")
    audit = AuditConfig.model_validate({
        "model": str(exported), "draws": 2, "data": {"path": str(pairs), "resolution": side},
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
        found |= _detected(exported, side)
    return found


def _run_of(family: str, options: argparse.Namespace, distilled: bool) -> RunConfig:
    """A few steps with the filter on; a distilled model has no guidance to take the magnitude of."""
    folder, adapted = options.out / family, options.lora is not None
    half = "bfloat16" if torch.cuda.is_available() else "float32"
    return RunConfig.model_validate({
        "output": str(folder / "run"),
        "model": {"path": str(folder / "model"),
                  **({"lora": {"rank": options.lora}, "dtype": half} if adapted else {}),
                  **({"quantize": options.quantize, "text_encoder_quantize": options.quantize} if adapted else {})},
        "data": {"path": str(options.out / "data" / "train"), "held_out_path": str(options.out / "data" / "held_out"),
                 "resolution": resolution_of(family, options.size), "shuffle_buffer": 16, "streams": 1},
        "filter": {"false_drop_rate": 0.1, "record": [] if distilled else ["magnitude"]},
        "train": {"steps": options.steps, "batch_size": options.batch_size,
                  "cache": str(options.out / "cache" / family) if adapted else None,
                  "mixed_precision": "bf16" if torch.cuda.is_available() else "no"},
        "optimizer": {"name": options.optimizer, "lr": 1.0 if options.optimizer == "prodigy" else 1e-4},
        "validation": {"prompts": ["wave 1"], "sampling_steps": 4, "held_out_pairs": 8, "held_out_draws": 1},
        "checkpoint": {"every": 0},
    })  # fmt: skip


def _detected(model: Path, side: int) -> dict[str, Any]:
    """How many of eight prompts could be checked, how long that took and how much memory."""
    prompts, ordinary = [f"wave {n}" for n in range(8)], ordinary_prompts()[:24]
    settings, opened = DetectSettings(resolution=side), open_model(model)
    results, seconds, gib = timed(
        lambda: detect(opened, prompts, settings=settings, ordinary=ordinary, false_positive_rate=0.05)
    )
    found = sum(result.error is None for result in results)
    return {"detect_seconds": seconds, "detect_gib": gib, "detected": found}


def table(results: dict[str, dict[str, Any]], size: str) -> Table:
    """What is printed, and what docs/benchmarks may show."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    made = Table(title=f"{size} models, {RESOLUTION[size]} pixels, {where}, torch {torch.__version__}")
    for column in ("family", "parameters", "s per step", "training GiB", "audit, pairs/s", "audit GiB", "detect, s"):
        made.add_column(column, justify="left" if column == "family" else "right")
    for family, r in results.items():
        if "step_seconds" not in r:
            made.add_row(family, escape(r.get("skipped") or r["failed"]))
            continue
        detected = f"{r['detect_seconds']:.2f}" if "detect_seconds" in r else "distilled"
        made.add_row(
            family, f"{r['parameters'] / 1e6:.1f} M", f"{r['step_seconds']:.3f}", f"{r['train_gib']:.2f}",
            f"{r['audited'] / r['audit_seconds']:.1f}", f"{r['audit_gib']:.2f}", detected,
        )  # fmt: skip
    return made


def check_families(options: argparse.Namespace, deadline: float) -> dict[str, dict[str, Any]]:
    """What was found for each, what it failed with, or that time.monotonic() was past ``deadline`` at its turn."""
    results: dict[str, dict[str, Any]] = {}
    for split, first in (("train", 0), ("held_out", 1000)):
        write_shards(options.out / "data" / split, 64 if split == "train" else 32, RESOLUTION[options.size], first)
    for family in options.families:
        if time.monotonic() > deadline:
            results[family] = {"skipped": "no time left"}
            continue
        console.print(f"{family} ...", highlight=False)
        try:
            results[family] = check(family, options)
        except Exception as error:  # the others still have their turn, and the table says which did not work
            console.print_exception()
            results[family] = {"failed": f"{type(error).__name__}: {error}"}
    console.print(table(results, options.size))
    return results


def main() -> int:
    """Exit code 1 where a family or an own loop failed or did not get its turn."""
    options = arguments()
    deadline = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    families = check_families(options, deadline) if options.families else {}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # the own loops are processes of their own
    loops = {}
    if options.own_loop:
        loops = check_own_loops(options, deadline, lambda part: console.print(f"{part} ...", highlight=False))
        console.print(own_loop_table(loops))
        console.print(f"What each of them printed: {options.out}/own_loop/*.log", highlight=False, soft_wrap=True)
    (options.out / "results.json").write_text(json.dumps({**families, **loops}, indent=1) + "\n")
    unmeasured = any("step_seconds" not in r for r in families.values())
    return int(unmeasured or any(r["outcome"] != "ok" for r in loops.values()))


if __name__ == "__main__":
    sys.exit(main())
