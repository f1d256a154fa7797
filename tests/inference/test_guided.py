"""A finished model, opened: what is refused, its guided trajectory, and the factor of its magnitude."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from memsieve.inference.opened import open_model

PROMPTS = ["cat", "a dog on a log", "z"]


def test_auto_takes_the_native_norm_where_epsilon_space_says_nothing(build_pipeline: Callable[..., Any]) -> None:
    pipe = build_pipeline("v_prediction")
    pipe.scheduler = DDIMScheduler.from_config(
        dict(pipe.scheduler.config), rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    model = open_model(pipe)
    first, last = model.timesteps(10)[0], model.timesteps(10)[-1]
    assert model.factor(first, "epsilon") < 1e-3 and model.factor(first) == 1.0
    assert model.factor(last) == model.factor(last, "epsilon") > 0.9


def test_a_folder_without_a_part_says_which(model_folder: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    shutil.rmtree(broken / "text_encoder")
    with pytest.raises(ValueError, match="has no text_encoder/ folder"):
        open_model(broken)


@pytest.mark.parametrize("kind", [PNDMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler, DDPMScheduler])
def test_leaving_keeps_what_a_multistep_scheduler_remembers(build_pipeline: Callable[..., Any], kind: Any) -> None:
    """Rows leave at the second and at the fourth step; those that stay go on as if nothing had happened."""
    pipe = build_pipeline()
    pipe.scheduler = kind.from_config(dict(pipe.scheduler.config))
    model = open_model(pipe, scheduler="own")
    noise = model.noise(["cat"] * 4, range(4), 0)

    def run(rows: list[int], leave: dict[int, list[int]]) -> list[torch.Tensor]:
        cond = model.encode([PROMPTS[row % 3] for row in rows])
        steps = model.trajectory(
            noise[rows], cond, model.unconditional(len(rows)), steps=6, schedule_steps=10, guidance_scale=5.0,
            generators=[torch.Generator().manual_seed(row) for row in rows],
        )  # fmt: skip
        found, kept = [], None
        for index in range(6):
            step = steps.send(kept)
            found.append(model.magnitude(step))
            kept = torch.tensor(leave[index]) if index in leave else None
        return found

    whole, leaving = run([0, 1, 2, 3], {}), run([0, 1, 2, 3], {1: [0, 2, 3], 3: [2]})
    for index, rows in enumerate([[0, 1, 2, 3]] * 2 + [[0, 2, 3]] * 2 + [[3]] * 2):
        assert leaving[index].tolist() == pytest.approx(whole[index][rows].tolist(), rel=1e-4), index
    assert whole[5][3] != pytest.approx(float(whole[5][2]), rel=1e-2), "rows differ"


def test_refusals(build_pipeline: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no diffusers pipeline"):
        open_model(tmp_path)
    pipe = build_pipeline()
    pipe.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(
        ValueError, match=r"guidance-distilled.*detect, explain, minimize.*verify, and probe without --attack"
    ):
        open_model(pipe)
    with pytest.raises(ValueError, match="a family that is not known"):
        open_model(SimpleNamespace(unet=None, transformer=None))
