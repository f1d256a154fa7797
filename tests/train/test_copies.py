"""The judge of copies at validation: training images are found, others are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from memsieve.filtering.data.held_out import held_out_rows
from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.copies import CopyProbe, training_bank

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def probe(make_config: MakeConfig) -> CopyProbe:
    config = make_config()
    return CopyProbe(config.data, held_out_rows(config.data, 3), groups=2, bank=4096)


def test_bank_holds_each_group_once(make_config: MakeConfig) -> None:
    bank = training_bank(make_config().data, 4096)
    assert len(bank.captions) == len(bank.pixels) == 48  # 16 further rows are copies of one of them
    assert len(training_bank(make_config().data, 5).captions) == 5


def test_training_images_are_copies_and_noise_is_not(probe: CopyProbe, make_config: MakeConfig) -> None:
    bank = training_bank(make_config().data, 4096)
    names = list(bank.captions)
    noise = torch.randint(0, 2, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    assert probe.suspects_rate(bank.pixels[:4], names[:4]) == 1.0
    assert probe.suspects_rate(bank.pixels[:4], names[4:8]) == 0.0  # another group's image is no copy of one's own
    assert probe.suspects_rate(torch.cat([bank.pixels[:1], noise[1:]]), names[:4]) == 0.25
    assert probe.prompts_rate(bank.pixels[:4]) == 1.0


def test_suspects_come_in_the_order_of_their_evidence(probe: CopyProbe, make_config: MakeConfig) -> None:
    names = list(training_bank(make_config().data, 4096).captions)[:4]
    evidence = np.array([9.0, -np.inf, 3.0, -np.inf, -np.inf])
    found = probe.suspects(["unknown", *names], evidence, np.array([9, 1, 1, 2, 1]))
    assert [group for group, _ in found] == [names[1], names[2]]


def test_too_few_held_out_pairs_are_refused(make_config: MakeConfig) -> None:
    config = make_config()
    with pytest.raises(SettingsError, match=r"validation\.copy_groups' is 2.*at least 19"):
        CopyProbe(config.data, held_out_rows(config.data, 3)[:5], groups=2, bank=10)
