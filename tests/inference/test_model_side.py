"""How large a model's pictures are: what its folder says, and of one that is not on disk the usual."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memsieve.inference.model_side import model_side


@pytest.mark.parametrize("network", ["unet", "transformer"])
@pytest.mark.parametrize(("channels", "side"), [(None, 256), ([1, 2, 3, 4], 256), ([1, 2, 3], 128)])
def test_latents_times_what_the_autoencoder_shrinks(
    network: str, channels: list[int] | None, side: int, tmp_path: Path
) -> None:
    for name, values in ((network, {"sample_size": 32}), ("vae", {"block_out_channels": channels})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(values))
    assert model_side(str(tmp_path)) == side


def test_a_model_that_is_not_on_disk_has_the_usual_side() -> None:
    assert model_side("stabilityai/stable-diffusion-xl-base-1.0") == 1024
    assert model_side("stable-diffusion-v1-5/stable-diffusion-v1-5") == 512
