"""The model before fine-tuning, looked up: what an offline audit of it measured at the same draws.

An audit draws (t, noise, VAE sample) of a pair's visit from (seed, content id, visit) alone. A training run that draws
its measured visits alike meets the audit at the same (x_t, eps, t), so that ||eps - eps_ref||^2 / n is read from a
table instead of being computed by a forward.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memsieve.filtering.audit.records import content_of
from memsieve.filtering.audit.table import Scores, load_scores
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.draws import VisitDraw, visit_draw
from memsieve.filtering.settings import SettingsError

__all__ = ["LookedUpReference"]

Array = npt.NDArray[np.float32]


class LookedUpReference:
    """Losses and magnitudes of the audited pairs; 8 bytes a pair and 8 bytes a draw in memory.

    Args:
        folders: audits of the base model; together they should hold the training and the held-out pairs.
        model: ``hash``, ``num_train_timesteps`` and ``latent_shape`` of the model before fine-tuning.
        data: the run's data section.
        seed: of the run.

    Raises:
        SettingsError: an audit is not there, is not complete, or was made by another model, preprocessing or seed.
    """

    def __init__(self, folders: Sequence[str], model: dict[str, Any], data: DataConfig, seed: int) -> None:
        audits = [load_scores(Path(folder)) for folder in folders]
        for folder, audit in zip(folders, audits, strict=True):
            _check(folder, audit.about["deciding"], model, data, seed)
        first = audits[0].about["deciding"]
        strata = {int(audit.about["deciding"]["strata"]) for audit in audits}
        if len(strata) > 1:
            raise SettingsError(f"filter.reference: the audits {list(folders)} have different strata {sorted(strata)}")
        self.seed, self.strata = seed, int(first["strata"])
        self.num_train_timesteps = int(first["model"]["num_train_timesteps"])
        self.shape: tuple[int, ...] = tuple(first["model"]["latent_shape"])
        self.draws = min(int(audit.about["deciding"]["draws"]) for audit in audits)
        keys = np.concatenate([_keys(audit) for audit in audits])
        values = {
            name: np.concatenate([a.draws[name][:, : self.draws] for a in audits]) for name in ("loss", "magnitude")
        }
        self._keys, places = np.unique(keys, return_index=True)
        self._values: dict[str, Array] = {name: value[places].astype(np.float32) for name, value in values.items()}

    def __len__(self) -> int:
        return len(self._keys)

    def draw(self, content: str, visit: int, shape: tuple[int, ...] | None = None) -> VisitDraw:
        """The audit's draw of a pair's measured visit; ``shape`` of its latent, that of a square picture without."""
        return visit_draw(
            self.seed,
            content,
            visit,
            shape=shape or self.shape,
            num_train_timesteps=self.num_train_timesteps,
            strata=self.strata,
        )

    def knows(self, content: str, caption: str) -> bool:
        """Whether the pair was audited."""
        return bool(np.isfinite(self.look_up([content], [caption], [0])["place"][0]))

    def look_up(self, contents: Sequence[str], captions: Sequence[str], visits: Sequence[int]) -> dict[str, Array]:
        """``loss`` and ``magnitude`` [B] of the base model at each pair's draw, and ``place`` in the table; NaN where
        the pair, or the draw, was not audited."""
        found = {name: np.full(len(contents), np.nan, dtype=np.float32) for name in ("place", *self._values)}
        for i, (content, caption, visit) in enumerate(zip(contents, captions, visits, strict=True)):
            if not 0 <= visit < self.draws:
                continue
            key = _key(content, hashlib.sha256(caption.encode()).hexdigest()[:32])
            place = int(np.searchsorted(self._keys, np.uint64(key)))
            if place < len(self._keys) and self._keys[place] == key:
                found["place"][i] = place
                for name, values in self._values.items():
                    found[name][i] = values[place, visit]
        return found


def _key(content: str, caption_hash: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{content} {caption_hash}".encode(), digest_size=8).digest(), "big")


def _keys(audit: Scores) -> npt.NDArray[np.uint64]:
    """One number per row; rows that could not be read have none of their own, and share 0."""
    columns = (audit.table["sha256"].to_pylist(), audit.table["caption_hash"].to_pylist())
    pairs = zip(*columns, strict=True)
    keys = [_key(content_of(sha256), caption) if sha256 is not None else 0 for sha256, caption in pairs]
    return np.array(keys, dtype=np.uint64)


def _check(folder: str, audit: dict[str, Any], model: dict[str, Any], data: DataConfig, seed: int) -> None:
    """Refuse an audit whose draws, or whose model, are not those of the run.

    Raises:
        SettingsError: names what differs and what to do.
    """
    if audit["model"] is None:
        raise SettingsError(
            f"filter.reference: '{folder}' looked at the data alone (--data-only); score it with the model"
        )
    if data.crop != "center" or data.flip:
        raise SettingsError(
            f"filter.reference: '{folder}' scored centre crops, unmirrored, and this run has data.crop: {data.crop} "
            f"and data.flip: {data.flip}; set center and false, or filter.reference: frozen"
        )
    if data.group_by != "content":
        raise SettingsError(
            "filter.reference: an audit knows pairs by their content, and data.group_by is key; set data.group_by: "
            "content, or filter.reference: frozen"
        )
    if data.groups is not None:
        raise SettingsError(
            f"filter.reference: an audit knows pairs by their content, and data.groups: '{data.groups}' joins several; "
            "leave it out, or set filter.reference: frozen"
        )
    compared = {
        "model": (
            str(audit["model"]["hash"]),
            str(model["hash"]),
            "audit the model that model.path names, its text encoders as model.text_encoder_dtype has them",
        ),
        "seed": (audit["seed"], seed, f"set train.seed: {audit['seed']}, or audit with --seed {seed}"),
        "resolution": (audit["data"]["resolution"], data.resolution, "audit at data.resolution"),
        "buckets": (
            audit["data"].get("buckets"),
            None if data.buckets is None else [list(shape) for shape in data.shapes],
            "audit with data.buckets of the run",
        ),
        "latent shape": (list(audit["model"]["latent_shape"]), list(model["latent_shape"]), "audit this model"),
    }
    for name, (theirs, ours, way) in compared.items():
        if theirs != ours:
            raise SettingsError(
                f"filter.reference: '{folder}' was made with {name} {_short(theirs)}, and this run has {_short(ours)}; "
                f"{way}, or set filter.reference: frozen"
            )


def _short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) > 12 else str(value)
