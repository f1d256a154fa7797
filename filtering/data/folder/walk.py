"""Every file below an image folder, linked folders included, and an account of what is left out."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

__all__ = ["LeftOut", "walk"]

SYSTEM: Final = frozenset(
    {
        "@eaDir", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot", "__MACOSX", "$RECYCLE.BIN",
        "System Volume Information", "lost+found", "Thumbs.db", "desktop.ini",
    }
)  # fmt: skip
"""What NAS systems, archivers and desktops put beside pictures: thumbnails and bins, no data."""
SHOWN: Final = 5
"""Names in a sentence; the rest is counted."""


@dataclass(slots=True)
class LeftOut:
    """What a folder holds and no row is made of, counted by reason; each reason by name."""

    suffixes: Counter[str] = field(default_factory=Counter)
    """Files by a suffix that is not read."""
    hidden: Counter[str] = field(default_factory=Counter)
    """Hidden and system files and folders by name; folders are not looked into."""
    unused: Counter[str] = field(default_factory=Counter)
    """Captions that are not used since the image has another one, by suffix or file name."""
    orphans: Counter[str] = field(default_factory=Counter)
    """Caption files without an image, by suffix."""
    again: Counter[str] = field(default_factory=Counter)
    """Linked folders that lead to a folder that is read anyway."""
    unreadable: Counter[str] = field(default_factory=Counter)
    """Folders that cannot be listed, with the reason."""

    def sentence(self) -> str | None:
        """All of it in one sentence; None where nothing is left out."""
        parts = [
            _part(self.suffixes, "file", "files", "with a suffix that data.image_key does not name"),
            _part(self.hidden, "hidden or system name", "hidden or system names"),
            _part(self.unused, "caption", "captions", "of images that have another one"),
            _part(self.orphans, "caption file", "caption files", "without an image"),
            _part(self.again, "linked folder", "linked folders", "whose files are read under another name"),
            _part(self.unreadable, "folder", "folders", "that cannot be read"),
        ]
        said = "; ".join(part for part in parts if part)
        return f"left out: {said}" if said else None


def _part(counts: Counter[str], one: str, many: str, which: str = "") -> str:
    total = counts.total()
    if not total:
        return ""
    names = [f"{name} {number:,}" for name, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    if len(names) > SHOWN:
        names = [*names[:SHOWN], f"{len(names) - SHOWN} more kinds"]
    words = (f"{total:,}", one if total == 1 else many, which, f"({', '.join(names)})")
    return " ".join(word for word in words if word)


def walk(root: Path, left_out: LeftOut) -> Iterator[tuple[Path, list[str]]]:
    """(folder, names of its files, sorted) for ``root`` and every folder below it.

    Links to folders are followed, after all real folders, and no folder is read twice: neither loops nor two links to
    one place repeat a picture. Hidden and system names are left out.
    """
    seen = {_identity(root)}
    waiting = deque([root])
    while waiting:
        links: list[Path] = []
        yield from _real(waiting.popleft(), seen, links, left_out)
        waiting.extend(link for link in links if _is_new(link, seen, left_out))


def _real(
    top: Path, seen: set[tuple[int, int]], links: list[Path], left_out: LeftOut
) -> Iterator[tuple[Path, list[str]]]:
    """``top`` and the real folders below it that are not in ``seen``, which they are put into; links to folders go to
    ``links``."""

    def unreadable(error: OSError) -> None:
        left_out.unreadable[f"{os.path.basename(str(error.filename))}: {error.strerror or error}"] += 1

    for name, folders, files in os.walk(top, onerror=unreadable):
        folder, wanted = Path(name), []
        for child in sorted(folders):
            if _is_hidden(child):
                left_out.hidden[child] += 1
            elif (folder / child).is_symlink():
                links.append(folder / child)
            elif _is_new(folder / child, seen, left_out):
                wanted.append(child)
        folders[:] = wanted
        for file in files:
            if _is_hidden(file):
                left_out.hidden[file if file in SYSTEM or file == ".DS_Store" else "hidden files"] += 1
        yield folder, sorted(file for file in files if not _is_hidden(file))


def _is_new(folder: Path, seen: set[tuple[int, int]], left_out: LeftOut) -> bool:
    """Whether ``folder`` is to be read; it is in ``seen`` from then on."""
    try:
        identity = _identity(folder)
    except OSError as error:  # gone, or not to be looked at
        left_out.unreadable[f"{folder.name}: {error.strerror or error}"] += 1
        return False
    if identity in seen:
        left_out.again[folder.name] += 1
        return False
    seen.add(identity)
    return True


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()
    return found.st_dev, found.st_ino
