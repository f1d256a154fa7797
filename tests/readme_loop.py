"""The README's lines of one's own loop, read from it so that they cannot drift, and run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch.nn.parallel import DistributedDataParallel

from memsieve import LoopFilter

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str, page: str = "README.md") -> list[str]:
    """A page's blocks that a test runs."""
    text = (ROOT / page).read_text()
    found = re.findall(rf"<!-- executed by tests/test_readme.py -->\n```{language}\n(.*?)```", text, re.DOTALL)
    assert found, f"no {language} block of {page} is marked as executed"
    return found


def run_the_loop(engine: str = "", side: int = 8, keys: Sequence[str] = "abcd", device: str = "cpu") -> dict[str, Any]:
    """Two steps as printed, on latents of ``side``; what the lines leave behind, and the first weight ``before``.

    ``engine``: "ddp" wraps the model, "accelerate" prepares it; "" leaves it bare. On the ``device`` "lazy" the model
    has no attention, which it lacks.
    """
    torch.manual_seed(0)
    attends = device != "lazy"
    unet: Any = UNet2DConditionModel(
        sample_size=side, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D" if attends else "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D" if attends else "UpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn" if attends else "UNetMidBlock2D",
    ).to(device)  # fmt: skip
    optimizer: Any = torch.optim.SGD(unet.parameters(), lr=1e-3)
    before = next(unet.parameters()).detach().clone()
    if engine == "ddp":
        unet = DistributedDataParallel(unet)
    elif engine == "accelerate":
        from accelerate import Accelerator

        unet, optimizer = Accelerator(cpu=device == "cpu").prepare(unet, optimizer)
    latents, states = torch.randn(len(keys), 4, side, side).to(device), torch.randn(len(keys), 6, 16).to(device)
    batch = {"latents": latents, "encoder_hidden_states": states, "key": list(keys)}
    scope: dict[str, Any] = {
        "torch": torch, "unet": unet, "noise_scheduler": DDPMScheduler(), "optimizer": optimizer,
        "loader": [batch, batch], "before": before,
    }  # fmt: skip
    scope["sieve"] = made_as_printed(scope)
    for code in blocks("python"):
        exec(code, scope)
    return scope


def made_as_printed(scope: dict[str, Any]) -> LoopFilter:
    """The filter of the README's line, for the loop of ``scope``."""
    (setup,) = re.findall(r"^\+ sieve = (.*?)  #", TEXT, re.MULTILINE)
    sieve: LoopFilter = eval(setup, {**scope, "LoopFilter": LoopFilter})
    return sieve
