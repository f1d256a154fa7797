"""Images with several captions: each visit draws one, every one is cached, and audits know the first."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.data.loader import WindowLoader
from memsieve.filtering.data.pool import Ranks
from memsieve.train.config import RunConfig
from memsieve.train.loop import fit
from memsieve.train.set_up import set_up
from tests.filtering.data.ranks import ThreadExchange, on_ranks
from tests.train.conftest import picture

MakeConfig = Callable[..., RunConfig]
KEY = {"caption_key": "json.captions"}


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 training pairs in four shards and 12 held-out ones, with three captions each."""
    folder = tmp_path_factory.mktemp("listed")
    for split, first, count in (("train", 0, 16), ("held_out", 100, 12)):
        (folder / split).mkdir()
        for start in range(first, first + count, 4):
            with webdataset.TarWriter(str(folder / split / f"{start:05d}.tar")) as tar:
                for number in range(start, start + 4):
                    texts = {"captions": [f"pair {number} {way}" for way in ("short", "long", "tags")]}
                    tar.write({"__key__": f"{number:05d}", "png": picture(number), "json": json.dumps(texts).encode()})
    return folder


def paths(listed: Path, **more: Any) -> dict[str, Any]:
    return {"path": str(listed / "train"), "held_out_path": str(listed / "held_out"), **KEY, **more}


@pytest.mark.parametrize(("ranks", "workers"), [(1, 2), (2, 0), (2, 1)])
def test_drawn_captions_do_not_depend_on_ranks_and_workers(
    make_config: MakeConfig, listed: Path, ranks: int, workers: int
) -> None:
    def seen(ranks: int, workers: int) -> set[tuple[str, int, str]]:
        data = make_config(data=paths(listed, workers=workers)).data

        def work(rank: int, exchange: ThreadExchange) -> set[tuple[str, int, str]]:
            windows = itertools.islice(WindowLoader(data, 8, Ranks(rank, ranks, exchange), seed=3), 6)
            return {(r.key, r.epoch, r.caption) for window in windows for r in window.rows if r is not None}

        return set().union(*on_ranks(ranks, work))

    alone = seen(1, 0)
    assert seen(ranks, workers) == alone
    by_pair = defaultdict(set)
    for key, _, caption in alone:
        by_pair[key].add(caption)
    assert len(by_pair) == 16 and sum(len(captions) > 1 for captions in by_pair.values()) > 8


def test_every_caption_of_a_list_is_cached(make_config: MakeConfig, listed: Path, tmp_path: Path) -> None:
    config = make_config(data=paths(listed), train={"cache": str(tmp_path / "cache")}, filter={"enabled": False})
    session = set_up(config)
    assert fit(session)["trained"] == 48
    assert session.denoiser.misses == 0


def test_held_out_pairs_of_an_audit_are_known_by_their_first_caption(
    make_config: MakeConfig, listed: Path, tiny_model: Path, tmp_path: Path
) -> None:
    data = {"path": [str(listed / "train"), str(listed / "held_out")], "resolution": 16, **KEY}
    audit = AuditConfig.model_validate({"data": data, "model": str(tiny_model), "seed": 3, "draws": 2})
    assert not score_shards(audit, tmp_path / "audit", device="cpu").failed
    filter = {"apply": "sieve", "reference": str(tmp_path / "audit"), "signals": ["reference_ratio"], "record": []}
    session = set_up(make_config(data=paths(listed), filter={**filter, "false_drop_rate": 0.2}))
    assert session.looked_up is not None
    assert {row.caption.split()[-1] for row in session.held_out} == {"short"}
    free = set_up(make_config("frozen", data=paths(listed), filter={"false_drop_rate": 0.2}))
    assert {row.caption.split()[-1] for row in free.held_out} == {"short", "long", "tags"}, "as training pairs are"
