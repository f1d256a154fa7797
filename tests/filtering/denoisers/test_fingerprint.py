"""A model is known by its weights, vocabulary and schedule, whatever it came from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memsieve.filtering.denoisers.fingerprint import model_hashes, total_hash


class Vocabulary:
    model_max_length = 8

    def __init__(self, **words: int) -> None:
        self.words = words

    def get_vocab(self) -> dict[str, int]:
        return self.words


def network(value: float = 1.0, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    layer = torch.nn.Linear(2, 2, bias=False, dtype=dtype)
    torch.nn.init.constant_(layer.weight, value)
    return layer


def denoiser(**parts: Any) -> Any:
    schedule = SimpleNamespace(config={"beta_start": 0.1, "_diffusers_version": "1"})
    given = {
        "unet": network(),
        "tokenizer": Vocabulary(a=0, b=1),
        "scheduler": schedule,
        "safety_checker": None,
        **parts,
    }
    return SimpleNamespace(pipeline=lambda: SimpleNamespace(components=given))


def test_equal_parts_have_equal_hashes() -> None:
    parts = model_hashes(denoiser())
    same = denoiser(
        tokenizer=Vocabulary(b=1, a=0), scheduler=SimpleNamespace(config={"beta_start": 0.1, "_diffusers_version": "2"})
    )
    assert parts == model_hashes(same) and parts.keys() == {"unet", "tokenizer", "scheduler"}
    assert model_hashes(denoiser(), leave_out={"unet"}).keys() == {"tokenizer", "scheduler"}


@pytest.mark.parametrize(
    "changed",
    [
        {"unet": network(1.0 + 1e-6)},
        {"unet": network(dtype=torch.bfloat16)},
        {"unet": torch.nn.Sequential(network())},
        {"tokenizer": Vocabulary(a=1, b=0)},
        {"scheduler": SimpleNamespace(config={"beta_start": 0.2})},
    ],
)
def test_a_part_that_differs_is_the_one_whose_hash_does(changed: dict[str, Any]) -> None:
    before, after = model_hashes(denoiser()), model_hashes(denoiser(**changed))
    assert {name for name in before if before[name] != after[name]} == changed.keys()
    assert total_hash(before) != total_hash(after)
