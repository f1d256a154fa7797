"""Building an index again does only what is missing or has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from memsieve.inference.copies.index import TrainingIndex
from memsieve.inference.copies.index_build import build_index


def test_building_again_does_only_what_is_missing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import memsieve.inference.copies.index_build as module

    done: list[str] = []
    real = module._embed_shard

    def spy(shard: str, *rest: object) -> None:
        if len(done) == 1 and not resumed:
            raise KeyboardInterrupt
        done.append(Path(shard).name)
        real(shard, *rest)  # type: ignore[arg-type]

    resumed = False
    monkeypatch.setattr(module, "_embed_shard", spy)
    with pytest.raises(KeyboardInterrupt):
        build_index(str(shards / "train"), tmp_path / "i", similarity="pixel_l2", progress=False)
    with pytest.raises(ValueError, match="was not finished"):
        TrainingIndex(tmp_path / "i")
    resumed = True
    whole = build_index(str(shards / "train"), tmp_path / "i", similarity="pixel_l2", progress=False)
    assert done == ["00000.tar", "00001.tar", "00002.tar"] and len(whole) == 25
    build_index(str(shards / "train"), tmp_path / "i", similarity="pixel_l2", progress=False)
    assert len(done) == 3
    with pytest.raises(ValueError, match="is an index with 'pixel_l2'"):
        build_index(str(shards / "train"), tmp_path / "i", similarity="phash", progress=False)
