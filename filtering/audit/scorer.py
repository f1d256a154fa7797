"""The model's part of an audit: several draws of a batch, the VAE and the text encoded once."""

from __future__ import annotations

import math
from typing import Any

import torch

from memsieve.filtering.audit.config import AuditConfig
from memsieve.filtering.audit.records import MEASURES
from memsieve.filtering.data.draws import VisitDraw, visit_draw
from memsieve.filtering.denoisers.base import EPSILON_FLOOR, Conditioning
from memsieve.filtering.denoisers.fingerprint import model_hashes, total_hash
from memsieve.filtering.denoisers.registry import DTYPES, open_denoiser
from memsieve.filtering.signals import SIGNALS, Predictions, measure

__all__ = ["AuditScorer"]


class AuditScorer:
    """Measures batches of samples with one model.

    Args:
        config: must name a model; where ``data.resolution`` was not set, the model's own is taken.
        device: where the model goes; None takes the first GPU, or the CPU.

    Raises:
        ValueError: the model cannot be loaded; the message says which part.
    """

    def __init__(self, config: AuditConfig, device: str | None = None) -> None:
        assert config.model is not None
        self.config = config
        # Said aloud, the number of threads is kept by MKL, which else changes it, and with it the last bits of a score.
        torch.set_num_threads(torch.get_num_threads())
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        text_dtype = DTYPES[config.text_encoder_dtype]
        self.denoiser: Any = open_denoiser(config.model, text_dtype=text_dtype, option="--model").to(self.device)
        self.model = self.denoiser.model.to(self.device).requires_grad_(False).eval()
        if "resolution" not in config.data.model_fields_set:
            config.data.resolution = self.denoiser.resolution
        self.shape = self.denoiser.latent_shape(config.data.resolution)
        for shape in config.data.shapes:
            self.denoiser.latent_shape(*shape)

    def describe(self) -> dict[str, Any]:
        """Which model it is, by its weights: what scores depend on, in values that JSON can hold."""
        parts = model_hashes(self.denoiser)
        # Said where it is so, so that audits of other models keep their hash.
        distilled = {} if self.denoiser.distilled is None else {"distilled": self.denoiser.distilled}
        return {
            "hash": total_hash(parts),
            "parts": parts,
            "prediction_type": self.denoiser.prediction_type,
            "num_train_timesteps": self.denoiser.num_train_timesteps,
            "latent_shape": list(self.shape),
            **distilled,
        }

    @torch.no_grad()
    def score(self, contents: list[str], captions: list[str], pixels: torch.Tensor) -> list[dict[str, Any]]:
        """The measured columns of each sample of a batch.

        Args:
            contents: content ids, which the draws are keyed by.
            captions: of the samples.
            pixels: float32 [B, 3, H, W] in [-1, 1], (H, W) one of ``data.shapes``.
        """
        shape = self.denoiser.latent_shape(*pixels.shape[-2:])
        posterior = self.denoiser.posterior(pixels)
        conditioning = self.denoiser.conditioning(captions).to(dtype=torch.float32)
        unconditional = None
        if self.denoiser.distilled is None:
            unconditional = self.denoiser.unconditional(len(captions)).to(dtype=torch.float32)
        timesteps, values = [], []
        for visit in range(self.config.draws):
            draws = [self._drawn(content, visit, shape) for content in contents]
            t, measured = self._draw(draws, posterior, conditioning, unconditional)
            timesteps.append(t)
            values.append(measured)
        found = torch.stack(values).permute(2, 1, 0).tolist()  # [B, measures, draws]
        ts = torch.stack(timesteps).T.tolist()
        return [_columns(t, dict(zip(MEASURES, rows, strict=True))) for t, rows in zip(ts, found, strict=True)]

    def _drawn(self, content: str, visit: int, shape: tuple[int, int, int]) -> VisitDraw:
        return visit_draw(
            self.config.seed,
            content,
            visit,
            shape=shape,
            num_train_timesteps=self.denoiser.num_train_timesteps,
            strata=self.config.strata,
        )

    def _draw(
        self,
        draws: list[VisitDraw],
        posterior: tuple[torch.Tensor, torch.Tensor],
        conditioning: Conditioning,
        unconditional: Conditioning | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Timesteps [B] and measures [len(MEASURES), B] of one draw, both on the CPU; NaN where t says nothing."""
        t = self.denoiser.timesteps_at(torch.tensor([draw.timestep for draw in draws]))
        timesteps = t.to(self.device)
        noise = torch.stack([draw.noise for draw in draws]).to(self.device)
        latents = self.denoiser.sample_latents(posterior, torch.stack([draw.vae_noise for draw in draws]))
        noisy = self.denoiser.add_noise(latents, noise, timesteps)
        cond, uncond = (
            None if states is None else self._epsilon(noisy, timesteps, states)
            for states in (conditioning, unconditional)
        )
        assert cond is not None
        names = [name for name in MEASURES if uncond is not None or "uncond" not in SIGNALS[name].needs]
        measured = measure(names, Predictions(noise=noise, cond=cond, uncond=uncond))
        nothing = torch.full((len(t),), -math.inf, device=cond.device)
        values = torch.stack([measured.get(name, nothing) for name in MEASURES]).cpu()
        silent = self.denoiser.epsilon_factor(t) < EPSILON_FLOOR
        # Nothing is said at such a t, which is not the same as an output that is not finite.
        return t.long(), torch.where(silent.unsqueeze(0), torch.full_like(values, -math.inf), values)

    def _epsilon(self, noisy: torch.Tensor, timesteps: torch.Tensor, states: Conditioning) -> torch.Tensor:
        prediction = self.denoiser.predict(self.model, noisy, timesteps, states)
        epsilon: torch.Tensor = self.denoiser.to_epsilon(prediction, noisy, timesteps)
        return epsilon


def _columns(timesteps: list[int], values: dict[str, list[float]]) -> dict[str, Any]:
    record: dict[str, Any] = {"timesteps": timesteps, "n_draws": len(timesteps)}
    for name, measured in values.items():
        said = [value for value in measured if value != -math.inf]
        if not all(math.isfinite(value) for value in said):
            return {
                "status": "not_finite",
                "error": f"the model's output is not finite (timesteps {', '.join(map(str, timesteps))})",
            }
        record[name] = [None if value == -math.inf else value for value in measured]
        record[f"{name}_mean"], record[f"{name}_se"] = _mean(said)
        if name == "magnitude" and said:
            record["magnitude_max"] = max(said)
    return record


def _mean(values: list[float]) -> tuple[float | None, float | None]:
    """Mean and its standard error; None where there are too few values."""
    if not values:
        return None, None
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
