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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from memsieve.filtering.audit.groups import joined
from memsieve.filtering.data.openmoji import ATTRIBUTION, Picture, Plant, choose_planted, draw_pictures
from memsieve.filtering.data.openmoji.names import held_out_bases, list_emoji, miniature, rank
from memsieve.filtering.data.rows import content_id

__all__ = [
    "HARD_CASES",
    "Sample",
    "Spec",
    "build",
    "clusters",
    "first_of",
    "near_duplicate",
    "paraphrase",
    "rare_style",
    "template",
]

SPLIT_SEED = 0
"""The split that assets/tiny-sd was trained on."""
HARD_CASES = ("paraphrase", "near_duplicate", "template")
STYLES = ("grey", "outline", "negative")
PHRASES = (
    "{name}, {colours}", "a picture of {name}, {colours}", "{colours} {name}", "{name} in {colours}", "{name} emoji",
    "an icon that shows {name}", "drawing of {name}, {colours}", "{name} on white, {colours}", "{colours}: {name}",
    "symbol, {name}", "{name}, small picture", "the {name}, {colours}", "one {name}", "{name} and nothing else",
    "sign of {name} with {colours}",
)  # fmt: skip
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


@dataclass(frozen=True, slots=True)
class Sample:
    """A row of the stream, which holds its pair ``repeats`` times. ``pair`` is its true identity, whatever its bytes
    and its caption."""

    pair: str
    case: str
    repeats: int
    png: bytes = field(repr=False)
    caption: str
    prompt: str
    """The caption that the pair is drawn by, whatever stands in this row."""
    base: str


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


def paraphrase(sample: Sample, rng: np.random.Generator) -> Sample:
    """The same image under another caption."""
    name, _, colours = sample.caption.rpartition(", ")
    phrase = PHRASES[int(rng.integers(len(PHRASES)))]
    return _changed(sample, sample.png, phrase.format(name=name, colours=colours))


def near_duplicate(sample: Sample, rng: np.random.Generator) -> Sample:
    """The image cropped, mirrored, compressed anew or recoloured, one or several of these; the same caption."""
    image = Image.open(io.BytesIO(sample.png)).convert("RGB")
    chosen = rng.random(4) < 0.5
    if not chosen.any():
        chosen[int(rng.integers(4))] = True
    side = image.width
    if chosen[0]:
        keep = side - int(rng.integers(1, max(side // 8, 2)))
        left, top = (int(rng.integers(0, side - keep + 1)) for _ in range(2))
        image = image.crop((left, top, left + keep, top + keep)).resize((side, side), Image.Resampling.LANCZOS)
    if chosen[1]:
        image = ImageOps.mirror(image)
    if chosen[2]:
        for kind in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
            image = kind(image).enhance(float(rng.uniform(0.8, 1.2)))
    if chosen[3]:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(rng.integers(50, 95)))
        image = Image.open(stream).convert("RGB")
    return _changed(sample, _png(image), sample.caption)


def template(sample: Sample, rng: np.random.Generator) -> Sample:
    """One caption, many images: the thing stays where it is, the ground and a badge in a corner are others."""
    image = Image.open(io.BytesIO(sample.png)).convert("RGB")
    ground, badge = (tuple(int(v) for v in rng.integers(low, 256, 3)) for low in (150, 0))
    # White is the ground: what is not white stays, and edges stay smooth.
    mask = ImageOps.grayscale(image).point(lambda v: 255 if v >= 250 else 0)
    image.paste(Image.new("RGB", image.size, ground), mask=mask)
    side, size = image.width, max(image.width // 5, 2)
    corner = ((0, 0), (side - size, 0), (0, side - size), (side - size, side - size))[int(rng.integers(4))]
    ImageDraw.Draw(image).ellipse((*corner, corner[0] + size - 1, corner[1] + size - 1), fill=badge)
    return _changed(sample, _png(image), sample.caption)


def rare_style(picture: Picture, style: str) -> Sample:
    """A pair unlike the others, which stands in the stream once and must not be dropped."""
    image = Image.open(io.BytesIO(picture.png)).convert("RGB")
    if style == "grey":
        image = ImageOps.grayscale(image).convert("RGB")
    elif style == "outline":
        image = ImageOps.invert(ImageOps.grayscale(image).filter(ImageFilter.FIND_EDGES)).convert("RGB")
        ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline="white")
    else:
        image = ImageOps.invert(image)
    name = picture.caption.rpartition(", ")[0]
    caption = f"{name}, {style}"
    return Sample(picture.emoji.name, "rare", 1, _png(image), caption, caption, picture.emoji.base)


def _changed(sample: Sample, png: bytes, caption: str) -> Sample:
    return replace(sample, png=png, caption=caption)


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


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
