"""The model's part of an audit: its numbers are those of the formulas, its draws belong to the content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.scorer import AuditScorer
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import centred_pixels, decode_image
from memsieve.filtering.data.draws import visit_draw
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.denoisers.lora import LoraSettings, add_lora, trained_parameters
from memsieve.filtering.denoisers.lora_files import KOHYA_FILE, export_lora
from memsieve.filtering.denoisers.registry import open_denoiser

Audit = Callable[..., Outcome]

Read = Callable[[Path], pa.Table]


def test_scores_are_those_of_the_formulas(
    audit: Audit, folder: Path, tmp_path: Path, read_rows: Read, tiny_model: Path
) -> None:
    """One row computed by hand, from the bytes in the shard and diffusers' own parts."""
    assert len(audit(folder, tmp_path / "out", seed=5, draws=4).done) == 3
    table = read_rows(tmp_path / "out")
    assert len(table) == 24 and set(table["status"].to_pylist()) == {"ok"}
    row = table.slice(10, 1).to_pylist()[0]
    raw = list(read_shard(row["shard"], DataConfig(path="x")))[row["index"]]
    assert (raw.key, raw.caption) == (row["key"], row["caption"]) and row["sha256"].startswith(content_id(raw.image))
    assert (row["width"], row["height"], row["image_bytes"]) == (16, 16, len(raw.image))
    denoiser = open_denoiser(str(tiny_model))
    pixels = centred_pixels(decode_image(raw.image, DataConfig(path="x")), (16, 16))[None]
    text, empty = (denoiser.conditioning([c]).encoder_hidden_states for c in (row["caption"], ""))
    for visit in range(4):
        draw = visit_draw(5, content_id(raw.image), visit, shape=(4, 8, 8), num_train_timesteps=1000, strata=4)
        assert row["timesteps"][visit] == draw.timestep
        latents = denoiser.latents(pixels, draw.vae_noise[None])
        t = torch.tensor([draw.timestep])
        with torch.no_grad():
            noisy = denoiser.noise_scheduler.add_noise(latents, draw.noise[None], t)
            cond, uncond = (denoiser.model(noisy, t, states).sample for states in (text, empty))
        loss, loss_empty = (float(functional.mse_loss(p, draw.noise[None])) for p in (cond, uncond))
        assert row["loss"][visit] == pytest.approx(loss, rel=1e-5)
        assert row["loss_gap"][visit] == pytest.approx(loss_empty - loss, abs=2e-6)
        assert row["magnitude"][visit] == pytest.approx(float((cond - uncond).norm()), rel=1e-4)
    assert row["loss_mean"] == pytest.approx(np.mean(row["loss"]), rel=1e-6)
    assert row["loss_se"] == pytest.approx(np.std(row["loss"], ddof=1) / 2, rel=1e-5)


def test_draws_cover_t_and_belong_to_the_content(audit: Audit, folder: Path, tmp_path: Path, read_rows: Read) -> None:
    audit(folder, tmp_path / "out", draws=8)
    table = read_rows(tmp_path / "out")
    for timesteps in table["timesteps"].to_pylist():
        assert sorted(t // 250 for t in timesteps) == [0, 0, 1, 1, 2, 2, 3, 3]
    copies = [row for row in table.to_pylist() if row["caption"] == "pair 0"]
    assert len(copies) == 3 and len({row["sha256"] for row in copies}) == 1
    for row in copies[1:]:
        assert row["timesteps"] == copies[0]["timesteps"]
        assert row["loss"] == pytest.approx(copies[0]["loss"], rel=1e-5)
    others = {tuple(row["timesteps"]) for row in table.to_pylist()}
    assert len(others) == 22


def test_a_lora_in_a_file_is_audited_in_its_base(tiny_model: Path, tmp_path: Path) -> None:
    """In kohya's names, as other programs hand it on: the scores are the fused model's, and so is the identity."""
    denoiser = open_denoiser(str(tiny_model))
    add_lora(denoiser, LoraSettings(rank=2, init="default"), seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trained_parameters(denoiser.model):
            parameter.add_(torch.randn_like(parameter))
    export_lora(denoiser, tmp_path, denoiser.model, "elsewhere")
    data = DataConfig(path="x", resolution=16)
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    base, lora = (
        AuditScorer(AuditConfig(model=model, data=data), "cpu")
        for model in (str(tiny_model), f"{tmp_path / KOHYA_FILE}::{tiny_model}")
    )
    assert base.describe()["hash"] != lora.describe()["hash"]
    scores = [scorer.score(["a", "b"], ["pair 1", "pair 2"], pixels) for scorer in (base, lora)]
    denoiser.model.eval()
    lora.model = denoiser.model
    expected = lora.score(["a", "b"], ["pair 1", "pair 2"], pixels)
    for row, before, ours in zip(scores[1], scores[0], expected, strict=True):
        assert row["loss_mean"] == pytest.approx(ours["loss_mean"], rel=1e-4)
        assert row["loss_mean"] != pytest.approx(before["loss_mean"], rel=1e-3)
