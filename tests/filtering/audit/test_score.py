"""Scores of an audit: what they are, and that they are there once, whatever happens on the way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from memsieve.filtering.audit.folder import AuditFolder
from memsieve.filtering.audit.score import Outcome
from memsieve.filtering.audit.status import audit_status
from memsieve.filtering.data.config import DataConfig
from memsieve.filtering.data.decode import centred_pixels, decode_image
from memsieve.filtering.data.draws import visit_draw
from memsieve.filtering.data.rows import content_id
from memsieve.filtering.data.shards import read_shard
from memsieve.filtering.denoisers.registry import open_denoiser
from memsieve.filtering.settings import SettingsError

Audit = Callable[..., Outcome]
Read = Callable[[Path], pa.Table]


@pytest.fixture
def folder(make_shards: Callable[..., Path], tmp_path: Path) -> Path:
    """Three shards of 8, one pair three times over."""
    return make_shards(tmp_path / "data", 22, per_shard=8, copies=2)


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
    pixels = centred_pixels(decode_image(raw.image, DataConfig(path="x")), 16)[None]
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


def test_copies_in_a_shard_are_scored_once(
    audit: Audit, make_shards: Callable[..., Path], tmp_path: Path, read_rows: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They draw the same, so they score the same; the same image under another caption is another pair."""
    from memsieve.filtering.audit.scorer import AuditScorer

    seen: list[str] = []
    score = AuditScorer.score
    monkeypatch.setattr(
        AuditScorer, "score", lambda self, contents, *rest: (seen.extend(contents), score(self, contents, *rest))[1]
    )
    folder = make_shards(tmp_path / "data", 10, per_shard=50, copies=30)
    audit(folder, tmp_path / "out", draws=2)
    assert len(seen) == len(set(seen)) == 10
    rows = read_rows(tmp_path / "out").to_pylist()
    assert len(rows) == 40 and all(row["n_draws"] == 2 for row in rows)
    copies = [(row["loss"], row["magnitude_mean"], row["timesteps"]) for row in rows if row["caption"] == "pair 0"]
    assert len(copies) == 31 and all(copy == copies[0] for copy in copies)
    seen.clear()
    monkeypatch.setattr("memsieve.filtering.audit.work.PAIRS", 0)
    audit(folder, tmp_path / "few", draws=2)
    assert len(seen) == 40 and len(read_rows(tmp_path / "few")) == 40


def test_visit_draws_are_uniform_in_t() -> None:
    """Every single visit is uniform over t, and visits of one pair are not the same."""
    draws = [visit_draw(1, f"{i:032x}", 2, shape=(1, 2, 2), num_train_timesteps=1000, strata=4) for i in range(2000)]
    counts, _ = np.histogram([draw.timestep for draw in draws], bins=10, range=(0, 1000))
    assert counts.min() > 140 and counts.max() < 260
    noise = torch.stack([draw.noise for draw in draws])
    assert abs(float(noise.mean())) < 0.05 and abs(float(noise.std()) - 1) < 0.05
    first, second = (visit_draw(1, "a", v, shape=(4, 8, 8), num_train_timesteps=1000, strata=4) for v in (0, 1))
    assert not torch.equal(first.noise, second.noise) and not torch.equal(first.noise, first.vae_noise)


def test_the_same_command_does_only_what_is_missing_or_stale(
    audit: Audit, folder: Path, tmp_path: Path, read_rows: Read, make_shards: Callable[..., Path]
) -> None:
    out = tmp_path / "out"
    audit(folder, out)
    first = read_rows(out)
    again = audit(folder, out)
    assert not again.done and again.skipped == 3
    tasks = AuditFolder(out).tasks()
    AuditFolder(out).scores(tasks[0]).unlink()
    AuditFolder(out).marker_file(tasks[1]).write_text("{")
    assert [audit_status(out).counts[name] for name in ("done", "missing")] == [1, 2]
    assert len(audit(folder, out).done) == 2 and read_rows(out).equals(first)
    other = make_shards(tmp_path / "other", 5, per_shard=8, first=500)
    shutil.copy(other / "00000.tar", folder / "00001.tar")
    status = audit_status(out)
    assert status.counts["stale"] == 1 and not status.complete
    assert list(audit(folder, out).done) == [str(folder / "00001.tar")]
    now = read_rows(out)
    assert len(now) == 21 and audit_status(out).complete
    changed = np.array([shard.endswith("00001.tar") for shard in now["shard"].to_pylist()])
    assert set(now.filter(pa.array(changed))["caption"].to_pylist()) == {f"pair {500 + i}" for i in range(5)}


def test_rows_do_not_depend_on_batch_size_or_on_other_shards(
    audit: Audit, folder: Path, tmp_path: Path, read_rows: Read
) -> None:
    audit(folder, tmp_path / "a")
    audit(folder / "00002.tar", tmp_path / "b", batch_size=3)
    a, b = read_rows(tmp_path / "a").slice(16), read_rows(tmp_path / "b")
    plain = ["shard", "index", "key", "sha256", "caption_hash", "phash", "timesteps"]
    assert a.select(plain).equals(b.select(plain)) and len(b) == 8
    for name in ("loss", "magnitude"):
        assert np.allclose(np.stack(a[name].to_numpy()), np.stack(b[name].to_numpy()), rtol=1e-5, atol=0)


def test_other_settings_are_refused_not_mixed(audit: Audit, folder: Path, tmp_path: Path) -> None:
    audit(folder, tmp_path / "out", draws=1)
    with pytest.raises(SettingsError, match=r"draws = 1, now it is 2.*--rescore"):
        audit(folder, tmp_path / "out", draws=2)
    with pytest.raises(SettingsError, match="2 shard.s. that are not named now"):
        audit(folder / "00000.tar", tmp_path / "out", draws=1)
    assert len(audit(folder, tmp_path / "out", draws=2, rescore=True).done) == 3
    assert audit_status(tmp_path / "out").complete


def test_another_model_under_the_same_path_is_noticed(
    audit: Audit, folder: Path, tmp_path: Path, tiny_model: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    audit(folder, tmp_path / "out", draws=1, model=True)
    denoiser = open_denoiser(str(model))
    with torch.no_grad():
        next(denoiser.model.parameters()).add_(1e-3)
    denoiser.export(model, denoiser.model)
    from memsieve.filtering.audit.config import AuditConfig
    from memsieve.filtering.audit.score import score_shards

    config = AuditConfig.model_validate({"model": str(model), "data": {"path": str(folder)}, "draws": 1})
    with pytest.raises(SettingsError, match=r"model.hash"):
        score_shards(config, tmp_path / "out")


def test_data_only_needs_no_model(audit: Audit, folder: Path, tmp_path: Path, read_rows: Read) -> None:
    audit(folder, tmp_path / "out", model=False)
    table = read_rows(tmp_path / "out")
    assert len(table) == 24 and table["n_draws"].to_pylist() == [0] * 24 and table["loss"].null_count == 24
    assert len(set(table["phash"].to_pylist())) == 22


def test_a_second_audit_of_one_folder_is_refused(audit: Audit, folder: Path, tmp_path: Path) -> None:
    with AuditFolder(tmp_path / "out").lock(), pytest.raises(SettingsError, match=f"process {os.getpid()} on"):
        audit(folder, tmp_path / "out", model=False)
    assert len(audit(folder, tmp_path / "out", model=False).done) == 3


def test_ctrl_c_leaves_whole_shards_only(audit: Audit, folder: Path, tmp_path: Path, read_rows: Read) -> None:
    def stop(task: Any, samples: int, share: float) -> None:
        if task.number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        audit(folder, tmp_path / "out", advance=stop)
    assert len(read_rows(tmp_path / "out")) == 8
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert len(audit(folder, tmp_path / "out").done) == 2


@pytest.mark.parametrize("kind", ["hf", "folder"])
def test_datasets_and_folders_are_audited_in_blocks(
    audit: Audit,
    tmp_path: Path,
    read_rows: Read,
    png: Callable[[int], bytes],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("memsieve.filtering.audit.tasks.BLOCK", 4)
    path = tmp_path / "data"
    if kind == "hf":
        import datasets

        columns = {
            "image": [{"bytes": png(i), "path": None} for i in range(10)],
            "text": [f"pair {i}" for i in range(10)],
        }
        features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(path))
    else:
        path.mkdir()
        for i in range(10):
            (path / f"{i:03}.png").write_bytes(png(i))
            (path / f"{i:03}.txt").write_text(f"pair {i}")
    options = {"data": {"format": kind, "image_key": "image;png"}, "draws": 1}
    assert len(audit(path, tmp_path / "out", **options).done) == 3
    table = read_rows(tmp_path / "out").sort_by("part")
    assert table["part"].to_pylist() == list(range(10))
    assert table["caption"].to_pylist() == [f"pair {i}" for i in range(10)]
    if kind == "folder":
        (path / "005.txt").write_text("another caption")
        assert [s.task.start for s in audit_status(tmp_path / "out").states if s.state == "stale"] == [4]
