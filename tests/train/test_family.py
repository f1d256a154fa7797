"""What a config asks for and its model's family cannot do is refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig
from memsieve.train.family import open_family
from memsieve.train.set_up import set_up

Make = Callable[..., RunConfig]
CPU = torch.device("cpu")


def test_what_a_distilled_model_cannot_be_measured_by_is_refused(make_family: Make) -> None:
    for option in ("signals", "record"):
        wanted = {"signals": ["magnitude", "loss"]} if option == "signals" else {"record": ["magnitude", "loss_gap"]}
        with pytest.raises(
            SettingsError, match=rf"filter\.{option}: magnitude.*guidance is distilled.*reference_ratio"
        ):
            set_up(make_family("flux", filter=wanted))


def test_options_that_do_not_fit_a_family(make_family: Make) -> None:
    looked_up = {"apply": "sieve", "record": [], "reference": "runs/audit"}
    with pytest.raises(ValueError, match=r"an audit draws t uniformly, and train\.timestep_weighting is logit_normal"):
        set_up(make_family("sd3", filter=looked_up, train={"timestep_weighting": "logit_normal"}))
    with pytest.raises(ValueError, match=r"train\.snr_gamma: Min-SNR.*logit_normal"):
        set_up(make_family("sd3", train={"snr_gamma": 5.0}))
    with pytest.raises(ValueError, match=r"timestep_weighting: logit_normal is for flow models.*use uniform"):
        set_up(make_family("sdxl", train={"timestep_weighting": "logit_normal"}))
    with pytest.raises(ValueError, match=r"data\.resolution: 18 must be a multiple of 4"):
        set_up(make_family("sd3", data={"resolution": 18}))


@pytest.mark.parametrize("option", ["noise_offset", "input_perturbation"])
def test_noise_beside_the_noise_is_none_that_an_audit_added(make_family: Make, option: str) -> None:
    """Unless no audit is asked: without the filter, or where the reference is a copy."""
    looked_up = {"apply": "sieve", "record": [], "reference": "runs/audit"}
    train = {option: 0.1}
    with pytest.raises(SettingsError, match=rf"an audit adds plain noise, and train\.{option} is 0\.1; set it"):
        open_family(make_family("sd", filter=looked_up, train=train), CPU)
    for allowed in ({**looked_up, "enabled": False}, {}):
        assert open_family(make_family("sd", filter=allowed, train=train), CPU).device == CPU


def test_a_distilled_model_is_taken_where_nothing_asks_for_its_unconditional_prediction(make_family: Make) -> None:
    wrong = {"signals": ["magnitude"], "record": ["loss_gap"]}
    assert open_family(make_family("flux", filter={**wrong, "enabled": False}), CPU).distilled is not None
    fitting = {"signals": ["reference_residual"], "record": ["loss", "reference_ratio"]}
    assert open_family(make_family("flux", filter=fitting), CPU).distilled is not None
    with pytest.raises(SettingsError, match=r"Set filter\.signals: \['reference_residual'\]; loss"):
        open_family(make_family("flux", filter={"signals": ["magnitude"], "record": []}), CPU)
    with pytest.raises(SettingsError, match=r"magnitude, loss_gap cannot .*Set filter\.record: \['loss'\]; loss"):
        open_family(make_family("flux", filter={"record": ["magnitude", "loss", "loss_gap"]}), CPU)


def test_a_model_is_opened_in_the_precisions_that_the_config_names(make_family: Make) -> None:
    lora = {"path": str(make_family("sd").model.path), "lora": {"rank": 2}}
    halves = {"dtype": "bfloat16", "text_encoder_dtype": "float16"}
    denoiser = open_family(make_family("sd", model={**lora, **halves}), CPU)
    parts = (denoiser.model, denoiser.text_encoder, denoiser.vae)
    assert [next(part.parameters()).dtype for part in parts] == [torch.bfloat16, torch.float16, torch.float32]
