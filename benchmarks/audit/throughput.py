"""How fast an audit scores, beside its own forwards timed alone, and what shards cost."""

from __future__ import annotations

import io
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.describing import Describer
from memsieve.filtering.audit.folder import AuditFolder
from memsieve.filtering.audit.scorer import AuditScorer
from memsieve.filtering.audit.tasks import Tasks
from memsieve.filtering.audit.work import AuditJob, Worker
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import centred_pixels, decode_image
from memsieve.filtering.data.openmoji import DatasetPlan, build_openmoji
from memsieve.filtering.data.rows import RawRow, content_id
from memsieve.filtering.data.shard_paths import expand_paths
from memsieve.filtering.data.shards import read_shard

__all__ = ["cost_of_shards", "throughput"]

Times = tuple[float, float]
"""Seconds by the clock, and CPU seconds."""
SAMPLES = 64
"""Of each timing of the throughput: four whole batches, few so that the runs that are compared lie close together."""
SPREAD = 1520
"""Samples that are cut into shards; at 100 shards a shard is about one batch."""
PARTS = (1, 10, 76, 100)
DECODED = {"32-pixel PNG": (32, "PNG"), "512-pixel JPEG": (512, "JPEG")}


def throughput(work: Path, model: Path, repeats: int = 6) -> dict[str, Any]:
    """Seconds of an audit, of its VAE, text and UNet forwards alone, and of the UNet forwards alone, on the same
    samples, batches and threads; one of each in every repeat, in turn.

    CPU seconds are of all threads, so that decoding on another core counts as if there were none. They and the
    fastest run hold where others use the machine too, and a run's time by the clock does not.
    """
    shards = {name: _pictures(work / "speed" / f"{side}", side, kind) for name, (side, kind) in DECODED.items()}
    scorer = AuditScorer(_config(model, shards["32-pixel PNG"]), "cpu")
    batches = list(_batches(shards["32-pixel PNG"], scorer))
    arms: dict[str, Callable[[], Times]] = {
        "forwards": lambda: _forwards(scorer, batches, whole=True),
        "UNet": lambda: _forwards(scorer, batches, whole=False),
    }
    for name, shard in shards.items():
        for ahead in (0, 2):
            arms[f"{name}, prefetch {ahead}"] = partial(_audit, work, model, scorer, [shard], prefetch=ahead)
    for run in arms.values():
        run()  # warm up: caches, allocator, the file system
    times = _in_turn(arms, repeats)
    return {"samples": SAMPLES, "repeats": repeats, "draws": scorer.config.draws, "batch_size": 16, "times": times,
            "rows": {name: _row(times, name, SAMPLES, ("forwards", "UNet")) for name in times}}  # fmt: skip


def cost_of_shards(work: Path, model: Path, repeats: int = 2) -> dict[str, Any]:
    """Seconds per sample of one draw, the same samples cut into few and into many shards."""
    scorer = AuditScorer(_config(model, work, draws=1), "cpu")
    sets = {parts: _cut(work / "speed" / f"in-{parts}", work / "data" / "train", parts) for parts in PARTS}
    arms = {str(parts): partial(_audit, work, model, scorer, shards, draws=1) for parts, shards in sets.items()}
    arms[str(PARTS[0])]()
    times = _in_turn(arms, repeats)
    return {"samples": SPREAD, "repeats": repeats, "draws": 1, "batch_size": 16, "times": times,
            "rows": {name: _row(times, name, SPREAD, (str(PARTS[0]),)) for name in times}}  # fmt: skip


def _row(times: dict[str, list[Times]], name: str, samples: int, beside: tuple[str, ...]) -> dict[str, Any]:
    """One arm by the clock (its fastest run) and by CPU time (median), per sample; and other arms' times over its own:
    of the fastest runs, and of CPU time within each repeat."""
    clock, cpu = (list(column) for column in zip(*times[name], strict=True))
    row: dict[str, Any] = {"seconds_per_sample": min(clock) / samples, "cpu_seconds_per_sample": median(cpu) / samples}
    for other in beside:
        fastest = min(wall for wall, _ in times[other])
        ratios = [theirs / ours for (_, theirs), ours in zip(times[other], cpu, strict=True)]
        row[f"{other}_over_this"] = {"clock": fastest / min(clock), "median": median(ratios), "low": min(ratios),
                                     "high": max(ratios)}  # fmt: skip
    return row


def _in_turn(arms: Mapping[str, Callable[[], Times]], repeats: int) -> dict[str, list[Times]]:
    """Times of each arm; every repeat begins with another one, so that none is always first."""
    seconds: dict[str, list[Times]] = {name: [] for name in arms}
    names = list(arms)
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            seconds[name].append(arms[name]())
    return seconds


def _config(model: Path, path: Path | list[str], **more: Any) -> AuditConfig:
    data = {"path": path if isinstance(path, list) else str(path), "resolution": 32}
    return AuditConfig.model_validate({"model": str(model), "data": data, **more})


def _audit(work: Path, model: Path, scorer: AuditScorer, shards: Sequence[Path], **more: Any) -> Times:
    """All of the work on ``shards``, from opening them to their markers; the model is there already."""
    out = work / "speed" / "run"
    shutil.rmtree(out, ignore_errors=True)
    config = _config(model, [str(shard) for shard in shards], **more)
    folder, tasks = AuditFolder(out), Tasks(config.data)
    folder.write_settings({"tasks": []})
    worker = Worker(AuditJob(folder, config, "", ""), tasks, scorer, Describer([], config.data))
    markers: list[Any] = []
    times = _timed(lambda: markers.extend(marker for _, marker in worker.run_all(tasks.all)))
    assert all(marker.failed == 0 for marker in markers)
    return times


@torch.no_grad()
def _forwards(scorer: AuditScorer, batches: list[tuple[torch.Tensor, list[str]]], whole: bool) -> Times:
    """Only the networks, on inputs made before: UNet with and without the caption for every draw; where ``whole``, the
    VAE and the text encoder once."""
    denoiser = scorer.denoiser
    inputs = []
    for pixels, captions in batches:
        states = denoiser.conditioning(captions), denoiser.unconditional(len(captions))
        noisy = torch.randn(len(captions), *scorer.shape)
        inputs.append(
            (pixels, captions, states, noisy, torch.randint(0, denoiser.num_train_timesteps, (len(captions),)))
        )

    def run() -> None:
        for pixels, captions, states, noisy, timesteps in inputs:
            if whole:
                denoiser.posterior(pixels)
                denoiser.conditioning(captions)
            for _ in range(scorer.config.draws):
                for conditioning in states:
                    denoiser.predict(scorer.model, noisy, timesteps, conditioning)

    return _timed(run)


def _timed(run: Callable[[], None]) -> Times:
    """Seconds by the clock, and CPU seconds of all threads of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def _batches(shard: Path, scorer: AuditScorer) -> Iterator[tuple[torch.Tensor, list[str]]]:
    rows = list(read_shard(str(shard), scorer.config.data))
    size = scorer.config.batch_size
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        images = [decode_image(raw.image, scorer.config.data) for raw in part]
        yield torch.stack([centred_pixels(image, (32, 32)) for image in images]), [raw.caption or "" for raw in part]


def _pictures(folder: Path, side: int, kind: str) -> Path:
    """One shard of ``SAMPLES`` OpenMoji pairs, ``side`` pixels wide, encoded as ``kind``."""
    shard = folder / "one.tar"
    if shard.is_file():
        return shard
    build_openmoji(folder / "source", DatasetPlan(size=side, limit=320), overwrite=True)
    rows = _distinct(folder / "source" / "train", SAMPLES)
    _write(shard, [(raw.key, _encoded(raw.image, kind), raw.caption or "", kind.lower()) for raw in rows])
    shutil.rmtree(folder / "source")
    return shard


def _encoded(data: bytes, kind: str) -> bytes:
    if kind == "PNG":
        return data
    stream = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(stream, kind, quality=90)
    return stream.getvalue()


def _cut(folder: Path, source: Path, parts: int) -> list[Path]:
    """The first ``SPREAD`` distinct pairs of ``source`` in ``parts`` shards."""
    shards = [folder / f"{number:05d}.tar" for number in range(parts)]
    if not all(shard.is_file() for shard in shards):
        rows = _distinct(source, SPREAD)
        for number, shard in enumerate(shards):
            part = rows[number * len(rows) // parts : (number + 1) * len(rows) // parts]
            _write(shard, [(raw.key, raw.image, raw.caption or "", "png") for raw in part])
    return shards


def _distinct(source: Path, count: int) -> list[RawRow]:
    found: dict[str, RawRow] = {}
    for path in expand_paths(str(source)):
        for raw in read_shard(path, DataConfig(path=str(source))):
            found.setdefault(content_id(raw.image), raw)
            if len(found) == count:
                return list(found.values())
    raise ValueError(f"'{source}' holds {len(found)} distinct pairs, {count} are needed")


def _write(shard: Path, rows: list[tuple[str, bytes, str, str]]) -> None:
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard.with_suffix(".part"), "w") as tar:
        for key, image, caption, suffix in rows:
            for name, data in ((f"{key}.{suffix}", image), (f"{key}.txt", caption.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    shard.with_suffix(".part").rename(shard)
