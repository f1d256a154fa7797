"""Prompts of one series, or of the same words, are one group."""

from __future__ import annotations

from memsieve.inference.prompts.near_identical import prompt_groups


def test_series_are_one_group() -> None:
    prompts = [
        "Shaw Floors Couture Collection 00105_19698", "Shaw Floors Value Collections Sandy Hollow 00201",
        "a photo of the Eiffel tower at night", "the Eiffel tower at night, a photo", "a red ball", "a blue door",
        "the", "",
    ]  # fmt: skip
    groups = prompt_groups(prompts)
    assert groups[0] == groups[1] and groups[2] == groups[3]
    assert len(set(groups)) == 6
