"""A tiny random Stable Diffusion folder and real WebDataset shards for training runs."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDPMScheduler
from PIL import Image

from memsieve.filtering import schedule
from memsieve.filtering.data.rows import Row
from memsieve.filtering.denoisers.base import Conditioning
from memsieve.train.batch import Batch, build_batch
from memsieve.train.config import RunConfig
from memsieve.train.draw_settings import DrawSettings
from memsieve.train.loop import window_batches
from memsieve.train.session import Session
from memsieve.train.set_up import set_up
from memsieve.train.visits import draw_visits, training_samples
from tests.conftest import SEED, THREADS
from tests.tiny_models import DISTILLED as UNGUIDED
from tests.tiny_models import LETTERS, side_of, tiny_pipeline

ROOT = Path(__file__).parents[2]
DISTILLED = {"signals": ["reference_residual"], "record": []}
GUIDED = {"signals": ["reference_residual"], "record": ["magnitude", "loss_gap"]}


def save_tiny_model(folder: Path, prediction_type: str = "epsilon") -> Path:
    """A random pipeline of the real classes: 16x16 images, 8x8 latents, a tokenizer of letters."""
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction_type
    )
    pipe = tiny_pipeline(scheduler, letters=LETTERS + "0123456789", seed=SEED)
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def picture(number: int) -> bytes:
    """A distinct 16x16 PNG."""
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_shards(folder: Path, count: int, per_shard: int = 16, first: int = 0, copies: int = 0) -> Path:
    """``count`` distinct pairs, and ``copies`` further copies of the first one under new keys."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(f"{first + i:05d}", first + i) for i in range(count)] + [(f"copy{i:04d}", first) for i in range(copies)]
    order = np.random.default_rng(0).permutation(len(rows))
    for shard, start in enumerate(range(0, len(rows), per_shard)):
        with webdataset.TarWriter(str(folder / f"{shard:05d}.tar")) as tar:
            for i in order[start : start + per_shard]:
                key, number = rows[i]
                tar.write({"__key__": key, "png": picture(number), "txt": f"pair {number}".encode()})
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_v_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-v", "v_prediction")


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shards(folder / "train", 48, copies=16)
    write_shards(folder / "held_out", 24, first=1000)
    return folder


def tiny_config(model: Path, shards: Path, output: Path, /, **sections: dict[str, Any]) -> RunConfig:
    """A run config of a few steps; sections given as keyword arguments are laid over it."""
    raw: dict[str, Any] = {
        "output": str(output),
        "model": {"path": str(model)},
        "data": {"path": str(shards / "train"), "held_out_path": str(shards / "held_out"), "resolution": 16,
                 "shuffle_buffer": 16, "streams": 4},
        "filter": {"false_drop_rate": 0.1, "held_out_per_window": 8},
        "train": {"steps": 6, "batch_size": 8, "seed": 3, "threads": THREADS, "timeout": 120},
        "optimizer": {"lr": 1e-3},
        "validation": {"held_out_pairs": 8, "held_out_draws": 1},
        "checkpoint": {"every": 0, "final": False, "export": False},
    }  # fmt: skip
    for name, values in sections.items():
        raw[name] = {**raw.get(name, {}), **values}
    return RunConfig.model_validate(raw)


@pytest.fixture
def make_config(tiny_model: Path, shards: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """``tiny_config`` in the test's own folder."""

    def make(output: str = "run", /, **sections: dict[str, Any]) -> RunConfig:
        return tiny_config(tiny_model, shards, tmp_path / output, **sections)

    return make


@pytest.fixture(scope="session")
def make_shared_config(
    tiny_model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., RunConfig]:
    """``tiny_config`` for runs that several tests look at."""
    folder = tmp_path_factory.mktemp("shared")

    def make(output: str, /, **sections: dict[str, Any]) -> RunConfig:
        return tiny_config(tiny_model, shards, folder / output, **sections)

    return make


class NoModel:
    """What draws and batches ask of a model family, without a model: latents are the VAE's noise."""

    class Words:
        """Tokens 0 and 1 are special; token n is the word ``<n>``."""

        all_special_ids = (0, 1)

        def __len__(self) -> int:
            return 50

        def decode(self, tokens: list[int]) -> str:
            return f" <{tokens[0]}> "

    device = torch.device("cpu")
    num_train_timesteps = 1000
    tokenizer = Words()

    def latent_shape(self, height: int, width: int | None = None) -> tuple[int, int, int]:
        return 4, height // 4, (width or height) // 4

    def text_layout(self) -> Any:
        return (self,)

    def timesteps_at(self, positions: torch.Tensor) -> torch.Tensor:
        return positions

    def epsilon_factor(self, timesteps: torch.Tensor) -> torch.Tensor:
        return torch.where(timesteps < 900, 1.0, 0.0)

    def posterior(self, pixels: torch.Tensor) -> Any:
        return pixels, pixels

    def sample_latents(self, posterior: Any, noise: torch.Tensor) -> torch.Tensor:
        return noise

    def conditioning(self, captions: list[str]) -> Conditioning:
        """Each caption's length."""
        return Conditioning(torch.tensor([float(len(caption)) for caption in captions]).view(-1, 1, 1))

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return latents + noise


def plain_batch(session: Session, rows: Sequence[Row | None], caption_dropout: float = 0.0) -> Batch:
    """``rows`` as a run at seed 3 and resolution 16 draws and encodes them, before anybody is condemned."""
    settings = DrawSettings(seed=3, resolution=16, caption_dropout=caption_dropout)
    samples = training_samples(session.denoiser, rows, settings, len(rows))
    return build_batch(session.denoiser, draw_visits(session.denoiser, samples, settings))


def middle_magnitude(config: RunConfig, signal: str = "magnitude") -> float:
    """A threshold that half of the first window lies above: midway between its two middle magnitudes at the start.

    ``config`` measures ``signal``; nothing is trained and nothing is written.
    """
    session = set_up(config)
    assert session.scorer is not None
    batch = window_batches(session, next(iter(session.loader)))[0]
    found = session.scorer.measure(batch).signals[signal]
    ordered = found[torch.isfinite(found)].sort().values
    return float(ordered[len(ordered) // 2 - 1 : len(ordered) // 2 + 1].mean())


@pytest.fixture(scope="session")
def make_shards() -> Callable[..., Path]:
    """``write_shards``, for tests that damage their own."""
    return write_shards


@pytest.fixture
def good_png() -> bytes:
    """A picture that no shard holds."""
    return picture(7777)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


ENGINE_ENVIRONMENT: dict[str, dict[str, str]] = {
    "ddp": {},
    **{f"zero{n}": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(n)} for n in (1, 2, 3)},
}


@dataclass
class RankRuns:
    """What two ranks made of some jobs: outcomes by rank and job, and the weights at the end."""

    folder: Path
    outcomes: list[dict[str, Any]]

    def state(self, job: str) -> dict[str, Any]:
        state: dict[str, Any] = torch.load(self.folder / f"{job}.pt", weights_only=True)
        return state

    def weights(self, job: str) -> torch.Tensor:
        weights = self.state(job)["weights"]
        return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RankRuns]:
    """Runs jobs (see rank_worker.py) one after the other in two gloo processes under an engine."""

    def run(engine: str, jobs: list[dict[str, Any]], timeout: float = 800.0) -> RankRuns:
        folder = tmp_path_factory.mktemp(f"ranks-{engine}")
        (folder / "jobs.json").write_text(json.dumps(jobs))
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}",
                   str(ROOT / "tests" / "train" / "rank_worker.py"), str(folder / "jobs.json")]  # fmt: skip
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
                       **ENGINE_ENVIRONMENT[engine]}  # fmt: skip
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, done.stderr[-6000:]
        outcomes = [json.loads((folder / f"outcomes-{rank}.json").read_text()) for rank in range(2)]
        for rank in range(2):
            for outcome in outcomes[rank].values():
                assert outcome["ranks"] == 2 and outcome["engine"] == engine, "not the processes that were meant"
        return RankRuns(folder, outcomes)

    return run


@pytest.fixture
def from_the_first_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sieve measures a group at once, so that a short run shows it."""
    monkeypatch.setattr(schedule, "SCORE_AFTER", 0)


@pytest.fixture
def a_port() -> int:
    """A free TCP port."""
    return free_port()


@pytest.fixture
def other_process() -> Iterator[Callable[[], None]]:
    """Makes accelerate forget its state, the precision among it, as a new process does."""

    def forget() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    yield forget
    forget()


@pytest.fixture
def make_family(family_folder: Callable[[str], Path], shards: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """A config of a few steps of a family, filtered."""

    def config(name: str, output: str = "run", **sections: Any) -> RunConfig:
        filter = {**(DISTILLED if name in UNGUIDED else GUIDED), **sections.pop("filter", {})}
        train = {"steps": 4, **sections.pop("train", {})}
        sections["data"] = {"resolution": side_of(name), **sections.get("data", {})}
        return tiny_config(family_folder(name), shards, tmp_path / output, filter=filter, train=train, **sections)

    return config
