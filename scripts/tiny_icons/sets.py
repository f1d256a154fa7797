"""The icon sets: where each comes from, whose it is, and under which licence."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["BASE", "JUDGE", "Icon", "IconSet", "fetch", "read_icons"]

MAX_JSON: Final = 256 << 20
"""Bytes of a set's icons.json; the largest has 110 million."""


@dataclass(frozen=True, slots=True)
class IconSet:
    """One set, as Iconify packs it for npm.

    Attributes:
        name: of the package, after ``@iconify-json/``; also the word for its style in captions.
        version: of the package.
        sha256: of the packed file.
        author, source: whose it is, and where they publish it.
        licence: as its own repository states it.
    """

    name: str
    version: str
    sha256: str
    author: str
    source: str
    licence: str

    @property
    def package(self) -> str:
        """As npm names it."""
        return f"@iconify-json/{self.name}@{self.version}"

    @property
    def file(self) -> str:
        """As ``npm pack`` calls the file."""
        return f"iconify-json-{self.name}-{self.version}.tgz"


BASE: Final = (
    IconSet("noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
            "Google Inc", "github.com/googlefonts/noto-emoji", "Apache-2.0"),
    IconSet("twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
            "Twitter, Inc and other contributors", "github.com/jdecked/twemoji", "CC-BY-4.0"),
    IconSet("fluent-emoji-flat", "1.2.6", "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
            "Microsoft Corporation", "github.com/microsoft/fluentui-emoji", "MIT"),
    IconSet("emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
            "Emoji One and EmojiTwo contributors", "github.com/EmojiTwo/emojitwo", "CC-BY-4.0"),
    IconSet("fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
            "Mozilla Foundation", "github.com/mozilla/fxemoji", "CC-BY-4.0"),
    IconSet("streamline-emojis", "1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
            "Streamline", "github.com/webalys-hq/streamline-vectors", "CC-BY-4.0"),
)  # fmt: skip
"""What the base is trained on."""
JUDGE: Final = (
    IconSet("noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
            "Google Inc", "github.com/googlefonts/noto-emoji", "Apache-2.0"),
    IconSet("emojione-v1", "1.2.3", "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
            "Emoji One", "github.com/joypixels/emojione-legacy", "CC-BY-SA-4.0"),
    IconSet("fluent-emoji", "1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
            "Microsoft Corporation", "github.com/microsoft/fluentui-emoji", "MIT"),
    IconSet("openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
            "OpenMoji", "github.com/hfg-gmuend/openmoji", "CC-BY-SA-4.0"),
    IconSet("emojione-monotone", "1.2.1", "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
            "Emoji One and EmojiTwo contributors", "github.com/EmojiTwo/emojitwo", "CC-BY-4.0"),
    IconSet("fluent-emoji-high-contrast", "1.2.6", "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
            "Microsoft Corporation", "github.com/microsoft/fluentui-emoji", "MIT"),
    IconSet("flat-color-icons", "1.2.3", "d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786",
            "Icons8", "github.com/icons8/flat-Color-icons", "MIT"),
)  # fmt: skip
"""What the judge is trained on, which the base never sees; it is not shipped."""


@dataclass(frozen=True, slots=True)
class Icon:
    """A drawing of a set: its name there, and a whole SVG document."""

    name: str
    svg: str


def fetch(icons: IconSet, folder: Path) -> Path:
    """The packed file of a set in ``folder``, by ``npm pack`` where it is not there yet.

    Raises:
        ValueError: npm is not there or cannot fetch it, or the file is not the one that is named here.
    """
    file = folder / icons.file
    if not file.is_file():
        npm = shutil.which("npm")
        if npm is None:
            raise ValueError(f"'npm' is not installed; fetch {icons.package} elsewhere and put '{icons.file}' here")
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [npm, "pack", "--silent", icons.package], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0 or not file.is_file():
            raise ValueError(f"npm pack {icons.package}: {done.stderr.strip()[-400:] or 'no file came'}")
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != icons.sha256:
        raise ValueError(f"'{file}' has sha256 {found}, not {icons.sha256}: it is another file; remove it")
    return file


def read_icons(file: Path) -> list[Icon]:
    """The drawings of a packed set, in the order of their names; other names for the same drawing are left out."""
    packed = _member(file, "package/icons.json")
    width, height = packed.get("width", 16), packed.get("height", 16)
    icons = []
    for name, icon in sorted(packed["icons"].items()):
        if icon.get("hidden"):
            continue
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {icon.get('width', width)} {icon.get('height', height)}"
        head = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        icons.append(Icon(name, f'{head} viewBox="{box}">{icon["body"]}</svg>'))
    return icons


def _member(file: Path, name: str) -> Any:
    with tarfile.open(file) as tar:
        member = tar.getmember(name)
        stream = tar.extractfile(member)
        if stream is None or member.size > MAX_JSON:
            raise ValueError(f"'{file}': {name} is no file, or larger than {MAX_JSON} bytes")
        return json.loads(stream.read())
