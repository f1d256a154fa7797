"""The data of scripts/bench signals: OpenMoji with planted levels, and Twemoji, another drawing of the same kind of
things, as the shift.

Twemoji comes from the npm package @iconify-json/twemoji 1.2.5 (``npm pack @iconify-json/twemoji@1.2.5``): graphics
CC BY 4.0, Copyright Twitter, Inc and other contributors.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset

from memsieve.filtering.data import openmoji
from memsieve.filtering.data.openmoji.names import Emoji, base_of, held_out_bases, rank
from memsieve.filtering.data.rows import content_id

__all__ = ["LEVELS", "PACKAGE", "build_same", "build_shifted"]

PACKAGE = "@iconify-json/twemoji 1.2.5"
LICENCE = "CC BY 4.0"
ATTRIBUTION = (
    "Twemoji, Copyright Twitter, Inc and other contributors (https://github.com/jdecked/twemoji). License: CC BY 4.0 "
    "(https://creativecommons.org/licenses/by/4.0/). Changes: rasterised on white, captioned from the icons' names."
)
LEVELS = ("10x10", "10x25", "10x50", "10x100", "10x200", "8x400", "4x800")
"""PAIRSxREPEATS; in one pass over the data the repeats are the exposures."""


def build_same(out: Path, seed: int = 0) -> dict[str, Any]:
    """OpenMoji; ``seed`` 0 is the split that the base model was trained by, and plants others than 1 does."""
    return openmoji.build_openmoji(out, openmoji.DatasetPlan(size=32, plant=LEVELS, seed=seed), overwrite=True)


def build_shifted(out: Path, package: Path, seed: int = 0) -> dict[str, Any]:
    """Twemoji with the same levels, laid out as ``build_openmoji`` does.

    Args:
        out: a folder that does not exist.
        package: the .tgz of the npm package.
        seed: decides the split, the planted pairs and the order.
    """
    out.mkdir(parents=True)
    pictures, _ = openmoji.draw_pictures(_icons(package, out / "svg"), 32, True, None)
    bases = held_out_bases({picture.emoji.base for picture in pictures}, seed, 0.12)
    held = [picture for picture in pictures if picture.emoji.base in bases]
    train = [picture for picture in pictures if picture.emoji.base not in bases]
    repeats = openmoji.choose_planted(train, pictures, [openmoji.parse_plant(level) for level in LEVELS], seed)
    copies = [(picture, copy) for picture in train for copy in range(repeats.get(picture.emoji.name, 1))]
    copies.sort(key=lambda item: rank(seed, "order", f"{item[0].emoji.name}/{item[1]}"))
    truth = _write(out, "train", [picture for picture, _ in copies], repeats, 8)
    truth += _write(out, "held_out", held, {}, 2)
    pq.write_table(pa.Table.from_pylist(truth), out / "truth.parquet")
    summary = {
        "source": PACKAGE, "licence": LICENCE, "attribution": ATTRIBUTION, "images": len(pictures),
        "train_rows": len(copies), "train_groups": len(train), "held_out_rows": len(held), "plant": list(LEVELS),
    }  # fmt: skip
    (out / "dataset.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    (out / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n", encoding="utf-8")
    return summary


def _icons(package: Path, folder: Path) -> list[Emoji]:
    """The icons of the package as SVG files: no skin tones, no flags, each thing once."""
    with tarfile.open(package) as tar:
        icons, chars = (json.load(_member(tar, name)) for name in ("icons.json", "chars.json"))
    texts = {name: "".join(chr(int(point, 16)) for point in points.split("-")) for points, name in chars.items()}
    folder.mkdir()
    found: dict[str, Emoji] = {}
    for name, icon in sorted(icons["icons"].items()):
        if "skin-tone" in name or name.startswith("flag-") or name not in texts:
            continue
        width, height = icon.get("width", icons["width"]), icon.get("height", icons["height"])
        svg = folder / f"{name}.svg"
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
        svg.write_text(f"{head}{icon['body']}</svg>", encoding="utf-8")
        found[name] = Emoji(name, name.replace("-", " "), base_of(texts[name]), svg, False)
    return list(found.values())


def _member(tar: tarfile.TarFile, name: str) -> Any:
    file = tar.extractfile(f"package/{name}")
    assert file is not None
    return file


def _write(out: Path, split: str, pictures: list[Any], repeats: dict[str, int], shards: int) -> list[dict[str, Any]]:
    (out / split).mkdir()
    truth = []
    for shard in range(shards):
        with webdataset.TarWriter(str(out / split / f"{shard:05d}.tar")) as tar:
            for number in range(len(pictures) * shard // shards, len(pictures) * (shard + 1) // shards):
                picture, key = pictures[number], f"{split.replace('_', '-')}-{number:06d}"
                meta = {"source": f"{PACKAGE} {picture.emoji.name}", "licence": LICENCE, "attribution": ATTRIBUTION}
                tar.write({"__key__": key, "png": picture.png, "txt": picture.caption, "json": meta})
                count = repeats.get(picture.emoji.name, 1)
                truth.append({"key": key, "group": content_id(picture.png), "base": picture.emoji.base, "split": split,
                              "caption": picture.caption, "planted": count > 1, "repeats": count})  # fmt: skip
    return truth
