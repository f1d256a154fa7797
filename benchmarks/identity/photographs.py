"""Freely licensed photographs out of Debian's packages, fetched and not shipped; what is taken is attributed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps

__all__ = ["PACKAGES", "Photograph", "fetched", "prepared"]

SIDE: Final = 512
"""Pixels of the longer side at which they are compared."""
LEAST: Final = 200
"""Pixels of the longer side: smaller ones are icons, of which descriptors say less."""
PACKAGES: Final = {
    "mate-backgrounds": ("usr/share/backgrounds/mate/nature/*.jpg",),
    "lomiri-wallpapers-16.04": ("usr/share/**/*.jpg",),
    "lomiri-wallpapers-20.04": ("usr/share/**/*.jpg",),
    "plasma-workspace-wallpapers": tuple(
        f"usr/share/wallpapers/{name}/contents/images/2560x1600.jpg"
        for name in (
            "BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow", "FallenLeaf", "Grey", "Kite",
            "OneStandsOut", "Path", "summer_1am",
        )
    ),
    "tuxpaint-stamps-default": tuple(
        f"usr/share/tuxpaint/stamps/{folder}/*.png"
        for folder in (
            "animals/**", "food/fruit", "food/vegetables", "plants/flowers", "plants/trees", "household/tools",
        )
    ),
}  # fmt: skip
"""Package -> photographs in it. The last one's are cut out, on a transparent ground; its drawings lie in folders of
their own. Licences are those in each package's ``copyright``, which is kept beside the pictures."""


@dataclass(frozen=True, slots=True)
class Photograph:
    """``name`` is that of its package, and its own."""

    name: str
    file: Path

    @property
    def package(self) -> str:
        """Where it is from."""
        return self.name.partition("--")[0]


def fetched(work: Path) -> Iterator[tuple[str, Path]]:
    """(package, folder of its files) of each package, downloaded by apt-get and unpacked where it is not there yet.

    Raises:
        RuntimeError: there is no apt-get, or it cannot reach the packages.
    """
    for package in PACKAGES:
        folder = work / "packages" / package
        if not (folder / "usr").is_dir():
            if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
                raise RuntimeError("the photographs are in Debian packages, and there is no apt-get; name a --folder")
            folder.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                ["apt-get", "download", "-q", package], cwd=folder, capture_output=True, text=True, check=False
            )
            archives = sorted(folder.glob("*.deb"))
            if done.returncode or not archives:
                raise RuntimeError(f"apt-get download {package}: {done.stderr.strip() or 'nothing came'}")
            subprocess.run(["dpkg-deb", "-x", archives[0].name, "."], cwd=folder, check=True)
            archives[0].unlink()
        yield package, folder


def prepared(work: Path, folder: Path | None = None) -> list[Photograph]:
    """The photographs, upright, at most ``SIDE`` pixels, transparency on white, as PNG in ``work/photographs``.

    Args:
        work: where they are kept.
        folder: take those of a folder of one's own in place of Debian's.
    """
    out = work / "photographs"
    out.mkdir(parents=True, exist_ok=True)
    found = []
    for name, file in _files(work, folder):
        made = out / f"{name}.png"
        with Image.open(file) as opened:
            if folder is None and max(opened.size) < LEAST:
                continue
            found.append(Photograph(name, made))
            if not made.is_file():
                opened.draft("RGB", (2 * SIDE, 2 * SIDE))  # of large JPEGs every so manyth pixel will do
                _small(opened).save(made)
                made.with_suffix(".txt").write_text(name.replace("_", " "), encoding="utf-8")
    return sorted(found, key=lambda one: one.name)


def _small(opened: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(opened).convert("RGBA")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    ground = Image.new("RGBA", image.size, "white")
    ground.alpha_composite(image)
    return ground.convert("RGB")


def _files(work: Path, folder: Path | None) -> Iterator[tuple[str, Path]]:
    if folder is not None:
        for file in sorted(folder.rglob("*")):
            if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
                yield f"{folder.name}--{file.stem}", file
        return
    for package, unpacked in fetched(work):
        copyright_file = unpacked / "usr" / "share" / "doc" / package / "copyright"
        kept = work / "copyright" / package
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(copyright_file, kept)
        for pattern in PACKAGES[package]:
            for file in sorted(unpacked.glob(pattern)):
                drawn = "cartoon" in file.parts or file.stem.endswith(("_mirror", "_flip", "_mirror_flip"))
                if not drawn and not file.is_symlink():
                    # Plasma's files are called by their sizes.
                    yield f"{package}--{file.parents[2].name if 'contents' in file.parts else file.stem}", file
