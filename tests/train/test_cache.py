"""Encoded once, on disk: the run is the one that encodes live, and a cache of something else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors import safe_open

from memsieve.filtering.denoisers import cache as cache_module
from memsieve.filtering.denoisers.cache import image_key
from memsieve.filtering.denoisers.cached import CachedDenoiser
from memsieve.filtering.denoisers.latent import LatentDenoiser
from memsieve.filtering.ledger import read_ledger
from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from tests.tiny_models import DISTILLED, TINY_FAMILIES, side_of, tiny_family
from tests.train.conftest import save_tiny_model, tiny_config

MakeConfig = Callable[..., RunConfig]
RULE = {"signals": ["magnitude"], "rule": "threshold", "threshold": 0.5, "ledger_kept": True}
SGD = {"name": "sgd", "lr": 0.1, "weight_decay": 0.0}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many images and captions were really encoded."""
    counts = {"images": 0, "captions": 0}
    posterior, conditioning = LatentDenoiser.posterior, LatentDenoiser.conditioning

    def images(self: Any, pixels: torch.Tensor) -> Any:
        counts["images"] += len(pixels)
        return posterior(self, pixels)

    def captions(self: Any, texts: list[str]) -> Any:
        counts["captions"] += len(texts)
        return conditioning(self, texts)

    monkeypatch.setattr(LatentDenoiser, "posterior", images)
    monkeypatch.setattr(LatentDenoiser, "conditioning", captions)
    return counts


def finished(config: RunConfig) -> tuple[Session, dict[str, Any]]:
    session = set_up(config)
    return session, fit(session)


def verdicts(output: Path) -> list[dict[str, Any]]:
    return sorted(read_ledger(output / "ledger").to_pylist(), key=lambda r: (r["step"], r["stream"], r["offset"]))


def same(live: Path, cached: Path) -> None:
    """The same rows in the same places with the same fate; numbers to the last bits of another batch.

    The runs take SGD: AdamW's first step is the gradient's sign, so that one of almost nothing, which another batch's
    last bits turn round, moves its weight all the same.
    """
    mine, theirs = verdicts(live), verdicts(cached)
    assert len(mine) == len(theirs) > 0
    assert {row["action"] for row in mine} >= {"drop", "keep"}, "the rule decides nothing here"
    for one, other in zip(mine, theirs, strict=True):
        for name in ("step", "key", "group", "stream", "offset", "action", "reason", "weight", "timestep"):
            assert one[name] == other[name], name
        if one["magnitude"] is not None:
            assert one["magnitude"] == pytest.approx(other["magnitude"], rel=1e-4)


@pytest.mark.parametrize("flip", [False, True])
def test_cached_and_live_verdicts_are_the_same(
    make_config: MakeConfig, tmp_path: Path, counted: dict[str, int], flip: bool
) -> None:
    """Filled once, used by a second run without encoding anything, the keep-list's and ledger's names as they are."""
    live, there = finished(make_config("live", filter=RULE, optimizer=SGD, data={"flip": flip}))
    caching = {"train": {"cache": str(tmp_path / "cache")}, "filter": RULE, "optimizer": SGD, "data": {"flip": flip}}
    session, here = finished(make_config("filled", **caching))
    assert isinstance(session.denoiser, CachedDenoiser) and session.denoiser.misses == 0
    same(live.config.output, session.config.output)
    assert there["dropped"] == here["dropped"] and there["heldout_loss"] == pytest.approx(here["heldout_loss"])
    counted.update(images=0, captions=0)
    again, _ = finished(make_config("again", **caching))
    assert again.denoiser.misses == 0
    assert counted == {"images": 0, "captions": 0}
    same(live.config.output, again.config.output)


def test_shards_are_bounded_and_know_their_samples(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "SHARD_BYTES", 16 * 2 * 4 * 8 * 8 * 4)
    folder = tmp_path / "cache"
    set_up(make_config(train={"cache": str(folder)}))
    shards = sorted(folder.glob("image-*.safetensors"))
    assert len(shards) > 3 and not list(folder.glob("*.unfinished"))
    names: list[str] = []
    for shard in shards:
        with safe_open(shard, framework="pt") as file:
            about = file.metadata()
            samples = json.loads(about["samples"])
            assert len(samples) == len(json.loads(about["keys"])) == len(file.get_tensor("mean")) <= 24
            names += samples
    # 48 distinct pairs and 24 held-out ones, and the row of zeros that pads windows
    assert len(names) == 73 and any(":00007" in name or ":copy" in name for name in names)


def test_a_fill_that_was_stopped_goes_on(
    make_config: MakeConfig, tmp_path: Path, counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    posterior, calls = LatentDenoiser.posterior, [0]

    def stopping(self: Any, pixels: torch.Tensor) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return posterior(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(LatentDenoiser, "posterior", stopping)
        with pytest.raises(KeyboardInterrupt):
            set_up(make_config(train={"cache": str(folder)}))
    assert not list(folder.glob("complete-*")) and list(folder.glob("image-*.safetensors"))
    counted.update(images=0)
    set_up(make_config(train={"cache": str(folder)}))
    assert counted["images"] == 73 - 24


def test_what_the_cache_lacks_is_encoded(make_config: MakeConfig, tmp_path: Path) -> None:
    """A shard that was lost costs time, not the run."""
    folder = tmp_path / "cache"
    set_up(make_config("first", train={"cache": str(folder)}))
    next(folder.glob("image-*.safetensors")).unlink()
    live, _ = finished(make_config("live", filter=RULE, optimizer=SGD))
    session, _ = finished(make_config("poor", filter=RULE, optimizer=SGD, train={"cache": str(folder)}))
    assert session.denoiser.misses > 0
    same(live.config.output, session.config.output)


def test_another_cache_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    set_up(make_config("first", train={"cache": str(folder)}))
    save_tiny_model(tmp_path / "other")
    vae = AutoencoderKL.from_pretrained(tmp_path / "other", subfolder="vae")
    with torch.no_grad():
        next(vae.parameters()).add_(0.1)
    vae.save_pretrained(tmp_path / "other" / "vae")
    with pytest.raises(SettingsError, match=r"train\.cache: '.*cache' was filled with another vae than this run's"):
        set_up(make_config("second", model={"path": str(tmp_path / "other")}, train={"cache": str(folder)}))
    with pytest.raises(SettingsError, match=r"train\.cache: data\.crop: random cuts an image anew"):
        set_up(make_config("third", data={"crop": "random"}, train={"cache": str(folder)}))
    with pytest.raises(SettingsError, match=r"train\.random_tokens: 2 changes a caption at every visit"):
        set_up(make_config("fourth", train={"cache": str(folder), "random_tokens": 2}))
    # Another resolution is other entries, not stale ones.
    set_up(make_config("fifth", data={"resolution": 8}, train={"cache": str(folder)}))


def test_pixels_name_an_image() -> None:
    levels = torch.randint(0, 256, (3, 8, 8), generator=torch.Generator().manual_seed(0))
    pixels = levels.float() / 127.5 - 1.0
    other = levels.clone()
    other[0, 0, 0] = (other[0, 0, 0] + 1) % 256
    keys = {image_key(pixels), image_key(other.float() / 127.5 - 1.0), image_key(pixels.flip(-1)),
            image_key(torch.zeros(3, 8, 8)), image_key(torch.zeros(3, 16, 16)),
            image_key(torch.full((3, 8, 8), 128 / 127.5 - 1.0))}  # fmt: skip
    assert len(keys) == 6 and image_key(pixels.clone()) == image_key(pixels)


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "sd3" else pytest.mark.slow) for n in TINY_FAMILIES])
def test_every_family(name: str, shards: Path, tmp_path: Path) -> None:
    """Pooled embeddings and masks come back too."""
    tiny_family(name).save_pretrained(tmp_path / "model", safe_serialization=True)
    record = [] if name in DISTILLED else ["magnitude"]
    losses = []
    for output in ("live", "cached"):
        config = tiny_config(
            tmp_path / "model", shards, tmp_path / output, filter={"record": record},
            data={"resolution": side_of(name)},
            train={"steps": 3, "cache": str(tmp_path / "cache") if output == "cached" else None},
        )  # fmt: skip
        session, summary = finished(config)
        losses.append(summary["heldout_loss"])
    assert session.denoiser.misses == 0 and losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_share_a_cache(make_config: MakeConfig, run_ranks: Any, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"filter": RULE, "optimizer": SGD}
    one, _ = finished(make_config("one", **sections, train={"batch_size": 8}))
    config = make_config("two", **sections, train={"batch_size": 4, "cache": str(tmp_path / "cache")})
    ranks = run_ranks("ddp", [{"name": "two", "config": config.model_dump(mode="json")}])
    assert ranks.outcomes[0]["two"]["summary"]["ranks"] == 2
    same(one.config.output, config.output)
    assert list((tmp_path / "cache").glob("complete-*"))
