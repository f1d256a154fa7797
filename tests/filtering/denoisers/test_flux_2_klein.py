"""Flux.2 klein: which of its models are distilled."""

from __future__ import annotations

from pathlib import Path

import pytest

from memsieve.filtering.denoisers.registry import denoiser_of, open_denoiser
from tests.tiny_models import tiny_family


def test_the_models_of_four_steps_are_told_from_the_base_by_their_pipeline() -> None:
    assert denoiser_of(tiny_family("flux_2_klein")).distilled is None
    few = denoiser_of(tiny_family("flux_2_klein", is_distilled=True))
    assert few.distilled is not None and "never guides it" in few.distilled
    given = few.call_arguments(few.conditioning(["cat"]), few.unconditional(1), 4.0)
    assert "negative_prompt_embeds" not in given


@pytest.mark.slow
def test_a_folder_and_an_export_say_so_too(tmp_path: Path) -> None:
    tiny_family("flux_2_klein", is_distilled=True).save_pretrained(tmp_path / "few", safe_serialization=True)
    opened = open_denoiser(str(tmp_path / "few"))
    opened.export(tmp_path / "out", opened.model)
    assert opened.distilled == open_denoiser(str(tmp_path / "out")).distilled is not None
