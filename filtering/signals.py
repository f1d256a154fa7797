"""What is measured of each noised sample, in epsilon space; higher evidence = more likely memorised.

Notation as in Wen et al. (ICLR 2024): eps_c = eps_theta(x_t, caption), eps_0 = eps_theta(x_t, unconditional),
Delta = eps_c - eps_0. ``ref`` is the model before fine-tuning at the same (x_t, eps, t). n is the number of elements
of a latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import torch

__all__ = [
    "COMBINED",
    "OF_PREDICTIONS",
    "SIGNALS",
    "UNCONDITIONAL",
    "Predictions",
    "Signal",
    "measure",
    "measured_for",
    "required_passes",
]

TINY: Final = 1e-12


@dataclass(slots=True)
class Predictions:
    """Predictions of one batch, all converted to epsilon space, [B, ...], any float dtype.

    ``noise`` is the true epsilon. ``cond`` is always there; the others where a signal needs them.
    """

    noise: torch.Tensor
    cond: torch.Tensor
    uncond: torch.Tensor | None = None
    ref_cond: torch.Tensor | None = None
    ref_uncond: torch.Tensor | None = None
    ref_loss: torch.Tensor | None = None
    """||eps - eps_c^ref||^2 / n per sample [B], where it was looked up rather than predicted."""
    ref_magnitude: torch.Tensor | None = None
    """The reference's magnitude per sample [B], where it was looked up."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal: the passes it needs, its value, and the monotone transform that calibration works on."""

    name: str
    needs: frozenset[str]
    value: Callable[[Predictions], torch.Tensor]
    evidence: Callable[[torch.Tensor], torch.Tensor]
    source: str


def _given(tensor: torch.Tensor | None, name: str) -> torch.Tensor:
    if tensor is None:
        raise ValueError(f"a signal needs the '{name}' prediction, which was not given")
    return tensor


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().float().flatten(1)


def _mse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    error: torch.Tensor = (_flat(a) - _flat(b)).square().mean(1)
    return error


def _norm(cond: torch.Tensor, uncond: torch.Tensor) -> torch.Tensor:
    norm: torch.Tensor = torch.linalg.vector_norm(_flat(cond) - _flat(uncond), dim=1)
    return norm


def magnitude(p: Predictions) -> torch.Tensor:
    """m = ||eps_c - eps_0||_2 per sample (Wen et al., Eq. 3 at one timestep), [B] float32."""
    return _norm(p.cond, _given(p.uncond, "uncond"))


def loss(p: Predictions) -> torch.Tensor:
    """||eps - eps_c||^2 / n per sample, [B] float32."""
    return _mse(p.noise, p.cond)


def loss_gap(p: Predictions) -> torch.Tensor:
    """(||eps - eps_0||^2 - ||eps - eps_c||^2) / n per sample (Zhai et al., CLiD, NeurIPS 2024), [B] float32."""
    return _mse(p.noise, _given(p.uncond, "uncond")) - _mse(p.noise, p.cond)


def cosine(p: Predictions) -> torch.Tensor:
    """cos(Delta, eps_0) per sample (Asthana et al., ICLR 2026), [B] float32."""
    uncond = _flat(_given(p.uncond, "uncond"))
    return torch.nn.functional.cosine_similarity(_flat(p.cond) - uncond, uncond, dim=1)


def reference_ratio(p: Predictions) -> torch.Tensor:
    """1 - ||eps - eps_c||^2 / ||eps - eps_c^ref||^2 at the same (x_t, eps, t), [B] float32."""
    reference = p.ref_loss if p.ref_loss is not None else _mse(p.noise, _given(p.ref_cond, "ref_cond"))
    return 1.0 - loss(p) / reference.clamp_min(TINY)


def magnitude_ratio(p: Predictions) -> torch.Tensor:
    """log m - log m^ref, [B] float32."""
    reference = p.ref_magnitude
    if reference is None:
        reference = _norm(_given(p.ref_cond, "ref_cond"), _given(p.ref_uncond, "ref_uncond"))
    return magnitude(p).clamp_min(TINY).log() - reference.clamp_min(TINY).log()


def anchored_magnitude(p: Predictions) -> torch.Tensor:
    """||eps_c - eps_0^ref||_2 / sqrt(n) per sample, [B] float32: the paper's magnitude with the unconditional branch of
    the model before fine-tuning. Where captions are dropped in training the model's own learns the pair too, and its
    magnitude falls."""
    return _rms(p.cond, _given(p.ref_uncond, "ref_uncond"))


def drift(p: Predictions) -> torch.Tensor:
    """||eps_c - eps_c^ref||_2 / sqrt(n) per sample, [B] float32: how far fine-tuning has moved the prediction."""
    return _rms(p.cond, _given(p.ref_cond, "ref_cond"))


def _rms(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Per element, so that a number holds for latents of any size."""
    return _mse(a, b).sqrt()


def _same(value: torch.Tensor) -> torch.Tensor:
    return value


def _log(value: torch.Tensor) -> torch.Tensor:
    return value.clamp_min(TINY).log()


def _minus_log(value: torch.Tensor) -> torch.Tensor:
    return -value.clamp_min(TINY).log()


def _minus_log_one_minus(value: torch.Tensor) -> torch.Tensor:
    # log(loss_ref / loss): symmetric in the two models, where 1 - ratio saturates at 1
    return -(1.0 - value).clamp_min(TINY).log()


_UNCOND, _REF, _BOTH = frozenset({"uncond"}), frozenset({"ref_cond"}), frozenset({"uncond", "ref_cond", "ref_uncond"})
_ANCHOR: Final = frozenset({"ref_uncond"})

SIGNALS: Final[dict[str, Signal]] = {
    signal.name: signal
    for signal in (
        Signal("magnitude", _UNCOND, magnitude, _log, "Wen et al., ICLR 2024"),
        Signal("loss_gap", _UNCOND, loss_gap, _same, "Zhai et al., NeurIPS 2024"),
        Signal("loss", frozenset(), loss, _minus_log, "t-normalised training loss"),
        Signal("cosine", _UNCOND, cosine, _same, "Asthana et al., ICLR 2026"),
        Signal("reference_ratio", _REF, reference_ratio, _minus_log_one_minus, "loss against a frozen copy"),
        Signal("magnitude_ratio", _BOTH, magnitude_ratio, _same, "magnitude against a frozen copy's"),
        Signal("anchored_magnitude", _ANCHOR, anchored_magnitude, _log, "Wen et al., against a frozen copy's branch"),
        Signal("drift", _REF, drift, _log, "the prediction against a frozen copy's"),
    )
}

UNCONDITIONAL: Final = frozenset({"uncond", "ref_uncond"})
"""Passes that a model with distilled guidance does not have."""
OF_PREDICTIONS: Final = frozenset({"anchored_magnitude", "drift"})
"""Signals that compare with the reference's predictions themselves, of which an audit has kept numbers alone."""

COMBINED: Final[dict[str, tuple[str, ...]]] = {"reference_residual": ("loss", "reference_ratio")}
"""Signals that decide and have no value of their own: what they are made of, when they are calibrated.

``reference_residual``: how far the loss lies below that of held-out pairs which the model before fine-tuning denoises
as well, at the same kind of t: log L^ - log L, log L^ being the regression of log L on log L_ref among held-out pairs.
"""


def measured_for(names: Iterable[str]) -> tuple[str, ...]:
    """The signals to measure for ``names``, each once: they themselves, or what they are made of.

    Raises:
        ValueError: a name is not a signal.
    """
    found: list[str] = []
    for name in names:
        if name not in SIGNALS and name not in COMBINED:
            raise ValueError(f"unknown signal '{name}'; known signals: {', '.join([*SIGNALS, *COMBINED])}")
        found.extend(COMBINED.get(name, (name,)))
    return tuple(dict.fromkeys(found))


def required_passes(names: Iterable[str]) -> frozenset[str]:
    """The extra forward passes that ``names`` need, each once: of ``uncond``, ``ref_cond``, ``ref_uncond``.

    Raises:
        ValueError: a name is not a signal.
    """
    return frozenset().union(*(SIGNALS[name].needs for name in measured_for(names)))


def measure(names: Iterable[str], predictions: Predictions) -> dict[str, torch.Tensor]:
    """Every signal that is measured for ``names``: name -> [B] float32 on the predictions' device."""
    return {name: SIGNALS[name].value(predictions) for name in measured_for(names)}
