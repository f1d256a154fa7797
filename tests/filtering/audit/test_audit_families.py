"""An audit of every model family: the scores are the formulas', the hash counts every part."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.score import score_shards
from memsieve.filtering.audit.select import Rule, select_rows
from memsieve.filtering.audit.summary import summarise
from memsieve.filtering.audit.table import load_scores
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import centred_pixels, decode_image
from memsieve.filtering.data.draws import visit_draw
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.filtering.settings import SettingsError
from tests.tiny_models import DISTILLED, recent_slow, side_of, tiny_family

Read = Callable[[Path], pa.Table]


@pytest.mark.parametrize("name", recent_slow())
def test_scores_are_those_of_the_formulas(
    name: str, make_shards: Callable[..., Path], tmp_path: Path, read_rows: Read
) -> None:
    tiny_family(name).save_pretrained(tmp_path / "model", safe_serialization=True)
    shards, out = make_shards(tmp_path / "data", 6), tmp_path / "out"
    raw = {
        "model": str(tmp_path / "model"),
        "seed": 5,
        "batch_size": 4,
        "data": {"path": str(shards), "resolution": side_of(name)},
    }
    score_shards(AuditConfig.model_validate(raw), out)
    rows = read_rows(out).to_pylist()
    assert len(rows) == 6 and {row["status"] for row in rows} == {"ok"}
    denoiser, row = open_denoiser(str(tmp_path / "model")), rows[2]
    sample = list(read_shard(row["shard"], DataConfig(path="x")))[row["index"]]
    pixels = centred_pixels(decode_image(sample.image, DataConfig(path="x")), (side_of(name), side_of(name)))[None]
    cond, uncond = denoiser.conditioning([row["caption"]]), denoiser.unconditional(1)
    for visit in range(4):
        shape = denoiser.latent_shape(side_of(name))
        draw = visit_draw(5, content_id(sample.image), visit, shape=shape, num_train_timesteps=1000, strata=4)
        t = denoiser.timesteps_at(torch.tensor([draw.timestep]))
        assert row["timesteps"][visit] == int(t)
        latents, noise = denoiser.latents(pixels, draw.vae_noise[None]), draw.noise[None]
        noisy = denoiser.add_noise(latents, noise, t)
        with torch.no_grad():
            one, two = (denoiser.predict(denoiser.model, noisy, t, states) for states in (cond, uncond))
        if denoiser.epsilon_factor(t) < 0.05:
            assert row["loss"][visit] is None and row["magnitude"][visit] is None
            continue
        loss = float((denoiser.to_epsilon(one, noisy, t) - noise).square().mean())
        assert row["loss"][visit] == pytest.approx(loss, rel=1e-4)
        if name in DISTILLED:
            assert row["magnitude"][visit] is None and row["loss_gap"][visit] is None
        else:
            delta = float((one - two).norm() * denoiser.epsilon_factor(t)[0])
            assert row["magnitude"][visit] == pytest.approx(delta, rel=1e-3) and delta > 0.01
    model = load_scores(out).about["deciding"]["model"]
    assert set(type(denoiser).parts) <= set(model["parts"])
    if name in DISTILLED:
        with pytest.raises(SettingsError, match=r"magnitude could not be measured.*guidance is distilled.*use loss"):
            select_rows(out, Rule(max_score=1.0, signals=("magnitude",)))
    assert summarise(out).values["signal"] == ("loss" if name in DISTILLED else "magnitude")
    assert np.isfinite(load_scores(out).draws["loss"]).any()
