"""Descriptors in an audit: a column each beside the scores, and why a picture has none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.identity.descriptors import Descriptor, arrow_type, open_descriptor
from memsieve.filtering.identity.picture import seen_picture
from memsieve.filtering.settings import SettingsError

__all__ = ["REASON", "Described", "Describer", "column_of"]

REASON: Final = "not_described"
"""The column that says why a picture has no descriptor: null where it has all that were asked for."""
REMEMBERED: Final = 8192
"""Files whose rows are kept, for their copies in the same shard."""

TOGETHER: Final = 32
"""Pictures that are held before they are described."""
Described = dict[str, Any]
"""The columns of one picture; shared by its copies."""


def column_of(name: str) -> str:
    """The column of a descriptor, by the name that it was asked for: ``sscd``, or the file of a model."""
    return "descriptor_" + re.sub(r"[^a-z0-9]+", "_", Path(name).name.split(".")[0].lower()).strip("_")


class Describer:
    """Describes the pictures of an audit, in batches.

    Args:
        names: as ``open_descriptor`` takes them; none describes nothing.
        data: limits of what is decoded.
        device: where models of one's own go; None takes the first GPU, or the CPU.

    Raises:
        SettingsError: one cannot be opened, or two would have the same column.
    """

    def __init__(self, names: Sequence[str], data: DataConfig, device: str | None = None) -> None:
        self.data = data
        self.descriptors: dict[str, Descriptor] = {}
        for name in names:
            column = column_of(name)
            if column in self.descriptors:
                raise SettingsError(f"--describe: '{name}' would be column '{column}', which there is; rename the file")
            self.descriptors[column] = open_descriptor(name, device or _first_device())
        self._known: dict[str, Described] = {}
        self._waiting: list[tuple[Described, dict[str, npt.NDArray[Any]]]] = []

    @property
    def fields(self) -> list[pa.Field]:
        """The columns beside those of every audit; none where nothing is described."""
        own = [pa.field(column, arrow_type(one)) for column, one in self.descriptors.items()]
        return [*own, pa.field(REASON, pa.string())] if own else []

    @property
    def identities(self) -> dict[str, str]:
        """What the columns are a function of, besides the pictures."""
        return {column: one.identity for column, one in self.descriptors.items()}

    def begin(self) -> None:
        """A new shard: nothing of another one is remembered, so that a shard's rows depend on it alone."""
        self._known, self._waiting = {}, []

    def add(self, image: bytes, decoded: Image.Image) -> Described:
        """The columns of a picture, which ``fill`` will fill; those of an earlier copy where there is one.

        Raises:
            BadSample: it cannot be decoded.
        """
        content = content_id(image)
        if content in self._known:
            return self._known[content]
        found: Described = dict.fromkeys([*self.descriptors, REASON]) if self.descriptors else {}
        if len(self._known) < REMEMBERED:
            self._known[content] = found
        if not self.descriptors:
            return found
        seen = seen_picture(image, self.data, decoded)
        if seen.picture is None:
            found[REASON] = seen.reason
            return found
        prepared = {column: one.prepare(seen.picture) for column, one in self.descriptors.items()}
        self._waiting.append((found, {column: one for column, one in prepared.items() if one is not None}))
        if len(self._waiting) >= TOGETHER:
            self.fill()
        return found

    def fill(self) -> None:
        """Describe what was added since the last call."""
        for column, descriptor in self.descriptors.items():
            mine = [(found, prepared[column]) for found, prepared in self._waiting if column in prepared]
            rows = descriptor.rows([prepared for _, prepared in mine])
            for (found, _), row in zip(mine, rows, strict=True):
                found[column] = row
        for found, _ in self._waiting:
            missing = [column.removeprefix("descriptor_") for column in self.descriptors if found[column] is None]
            found[REASON] = f"nothing to see for {', '.join(missing)}" if missing else None
        self._waiting = []


def _first_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
