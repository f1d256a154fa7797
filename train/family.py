"""The model of a run, and whether what the config asks for is possible with its family."""

from __future__ import annotations

from typing import Any

import torch

from memsieve.filtering.denoisers.parts import Dtypes
from memsieve.filtering.denoisers.quantize import Quantize
from memsieve.filtering.denoisers.registry import DTYPES, open_as
from memsieve.filtering.settings import SettingsError
from memsieve.filtering.signals import UNCONDITIONAL, required_passes
from memsieve.train.config import RunConfig

__all__ = ["open_family"]


def open_family(config: RunConfig, device: torch.device) -> Any:
    """The denoiser of ``model.path``, its frozen parts on ``device``.

    Raises:
        SettingsError: the config asks for what this family cannot do; said before anything is trained.
        ValueError: the model cannot be loaded.
    """
    model, train = config.model, config.train
    quantize = Quantize(model.quantize, model.text_encoder_quantize, device)
    dtypes = Dtypes(
        DTYPES[model.dtype],
        text=DTYPES[model.text_encoder_dtype],
        quantize=quantize if quantize.network or quantize.text else None,
    )
    denoiser = open_as(model.path, dtypes, model.prediction_type)
    for shape in config.data.shapes:
        denoiser.latent_shape(*shape)
    if train.snr_gamma is not None:
        denoiser.snr(torch.zeros(1, dtype=torch.long))  # refused by flow models
    if train.timestep_weighting == "logit_normal":
        if config.filter.enabled and config.filter.audits:
            raise SettingsError(
                "filter.reference: an audit draws t uniformly, and train.timestep_weighting is logit_normal; set it to "
                "uniform, or filter.reference: frozen"
            )
        denoiser.space.draw_logit_normal(train.logit_mean, train.logit_std)
    for name in ("noise_offset", "input_perturbation"):
        if getattr(train, name) and config.filter.enabled and config.filter.audits:
            raise SettingsError(
                f"filter.reference: an audit adds plain noise, and train.{name} is {getattr(train, name)}; set it to "
                "0, or filter.reference: frozen"
            )
    if config.filter.enabled:
        _check_signals(config, denoiser)
    return denoiser.to(device)


def _check_signals(config: RunConfig, denoiser: Any) -> None:
    """Refuse signals that compare with a prediction that the model does not have.

    Raises:
        SettingsError: names them, why, and what to use.
    """
    if denoiser.distilled is None:
        return
    for option, names in (("signals", config.filter.signals), ("record", config.filter.record)):
        wanting = [name for name in names if UNCONDITIONAL & required_passes([name])]
        if wanting:
            left = [name for name in names if name not in wanting]
            instead = str(left or (["reference_residual"] if option == "signals" else []))
            raise SettingsError(
                f"filter.{option}: {', '.join(wanting)} cannot be measured with '{config.model.path}': "
                f"{denoiser.distilled}. Set filter.{option}: {instead}; loss, reference_ratio and reference_residual "
                "need none"
            )
