"""The data of ``scripts/bench quality``: one stream that holds every level of repetition and every hard case at once,
to be read a few times, so that ordinary pairs come round too and are compared like the others.

Pairs are planted by ``seed``; which emoji are held out is the base model's own split, so that no seed holds out what
the base model was trained on. Beside the stream lie what is left of it after deduplication, and after the truth.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image

from benchmarks.quality.samples import HARD_CASES, STYLES, Sample, near_duplicate, paraphrase, rare_style, template
from memsieve.filtering.audit.groups import joined
from memsieve.filtering.data.openmoji import ATTRIBUTION, Picture, Plant, choose_planted, draw_pictures
from memsieve.filtering.data.openmoji.names import held_out_bases, list_emoji, miniature, rank
from memsieve.filtering.data.rows import content_id

__all__ = ["Spec", "build", "clusters", "first_of"]

SPLIT_SEED = 0
"""The split that assets/tiny-sd was trained on."""
PHASH_BITS = 4
"""Perceptual hashes that differ in at most so many of 64 bits are one cluster."""


@dataclass(frozen=True, slots=True)
class Spec:
    """How much of what: ``levels`` are (repeats in the stream, pairs); everything else stands in the stream once.

    The stream is read ``passes`` times, and exposures are repeats times passes.
    """

    levels: tuple[tuple[int, int], ...] = ((4, 7), (10, 7), (20, 7), (40, 7), (80, 7))
    hard_pairs: int = 3
    hard_repeats: int = 20
    rare: int = 60
    clean: int = 500
    passes: int = 5
    size: int = 32
    shards: int = 16
    limit: int | None = None

    @property
    def level_names(self) -> list[str]:
        """The levels as ``Sample.case`` names them: by exposures."""
        return [f"level {repeats * self.passes}" for repeats, pairs in self.levels if pairs]


def build(out: Path, seed: int, spec: Spec, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Write ``stream``, ``dedup``, ``dedup_phash``, ``oracle`` and ``held_out`` under ``out``, once, with
    ``truth.parquet``; returns what ``dataset.json`` says. Several processes may ask for it at once."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f"{out.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = json.loads(json.dumps({"seed": seed, "spec": asdict(spec)}))
        file = out / "dataset.json"
        if file.is_file() and (known := json.loads(file.read_text()))["asked"] == wanted:
            return dict(known)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        stream, held = _samples(seed, spec, progress)
        looks = clusters(stream)
        parts = {
            "stream": stream,
            "dedup": first_of(stream, lambda row: content_id(row.png)),
            "dedup_phash": first_of(stream, lambda row: looks[content_id(row.png)]),
            "oracle": first_of(stream, lambda row: row.pair),
            "held_out": held,
        }
        truth = [row for name, rows in parts.items() for row in _write(out / name, name, rows, spec.shards)]
        pq.write_table(pa.Table.from_pylist(truth), out / "truth.parquet")
        (out / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")
        made = {"asked": wanted, "rows": {name: len(rows) for name, rows in parts.items()}}
        file.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        return made


def _samples(seed: int, spec: Spec, progress: Callable[[int, int], None] | None) -> tuple[list[Sample], list[Sample]]:
    pictures, _ = draw_pictures(miniature(list_emoji(), SPLIT_SEED, spec.limit), spec.size, True, progress)
    bases = held_out_bases({picture.emoji.base for picture in pictures}, SPLIT_SEED, 0.12)
    train = [picture for picture in pictures if picture.emoji.base not in bases]
    held = [_sample(p, "held_out", 1) for p in pictures if p.emoji.base in bases]
    cases = [(f"level {repeats * spec.passes}", repeats, pairs) for repeats, pairs in spec.levels if pairs]
    cases += [(case, spec.hard_repeats, spec.hard_pairs) for case in HARD_CASES if spec.hard_pairs]
    planted = list(choose_planted(train, pictures, [Plant(pairs, repeats) for _, repeats, pairs in cases], seed))
    by_name = {picture.emoji.name: picture for picture in train}
    rows: list[Sample] = []
    for case, repeats, pairs in cases:
        for name in planted[:pairs]:
            rows += _copies(by_name.pop(name), case, repeats, seed)
        planted = planted[pairs:]
    others = sorted(by_name.values(), key=lambda picture: rank(seed, "ordinary", picture.emoji.name))
    coloured = [picture for picture in others if picture.vivid][: spec.rare]
    rows += [rare_style(p, STYLES[i % len(STYLES)]) for i, p in enumerate(coloured)]
    rare = {picture.emoji.name for picture in coloured}
    rows += [_sample(p, "clean", 1) for p in others if p.emoji.name not in rare][: spec.clean]
    order = np.random.default_rng([seed, 1]).permutation(len(rows))
    return [rows[i] for i in order], held


def _sample(picture: Picture, case: str, repeats: int) -> Sample:
    return Sample(picture.emoji.name, case, repeats, picture.png, picture.caption, picture.caption, picture.emoji.base)


def _copies(picture: Picture, case: str, repeats: int, seed: int) -> list[Sample]:
    plain = _sample(picture, case, repeats)
    if case not in HARD_CASES:
        return [plain] * repeats
    digest = hashlib.sha256(f"{seed}/{case}/{picture.emoji.name}".encode()).digest()
    rng = np.random.default_rng(list(digest[:8]))
    change = {"paraphrase": paraphrase, "near_duplicate": near_duplicate, "template": template}[case]
    return [plain, *[change(plain, rng) for _ in range(repeats - 1)]]


def first_of(rows: Sequence[Sample], name: Callable[[Sample], str]) -> list[Sample]:
    """The first row of each ``name``, in order."""
    found: dict[str, Sample] = {}
    for row in rows:
        found.setdefault(name(row), row)
    return list(found.values())


def clusters(rows: Sequence[Sample]) -> dict[str, str]:
    """Image -> cluster of perceptual hashes: an image joins the nearest earlier one that is near enough."""
    distinct = {content_id(row.png): row.png for row in rows}
    names = list(distinct)
    looks = [str(imagehash.phash(Image.open(io.BytesIO(png)).convert("RGB"))) for png in distinct.values()]
    first = joined(np.array([int(look, 16) for look in looks], dtype=np.uint64), PHASH_BITS, mirror=False)
    return {name: names[leader] for name, leader in zip(names, first.tolist(), strict=True)}


def _write(folder: Path, part: str, rows: Sequence[Sample], shards: int) -> list[dict[str, Any]]:
    """Rows as WebDataset shards; returns their truth. Keys say nothing about what is planted."""
    folder.mkdir(parents=True)
    truth = []
    each = math.ceil(len(rows) / shards)
    for shard in range(shards):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar"), mtime=0) as tar:
            for number, row in list(enumerate(rows))[shard * each : (shard + 1) * each]:
                key = f"{part.replace('_', '-')}-{number:06d}"
                tar.write({"__key__": key, "png": row.png, "txt": row.caption})
                truth.append({"part": part, "key": key, "group": content_id(row.png), "pair": row.pair,
                              "case": row.case, "repeats": row.repeats, "caption": row.caption,
                              "prompt": row.prompt, "base": row.base})  # fmt: skip
    return truth
