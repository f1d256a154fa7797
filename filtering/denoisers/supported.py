"""Which schedulers and networks a family's adapter is right for: others are refused, with the reason and a way out."""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers import DDPMScheduler

__all__ = [
    "check_classes",
    "check_diffusion",
    "check_flow",
    "check_sides",
    "check_unet",
    "check_vae_channels",
    "no_beta_schedule",
]

_EXTRA: Final = {
    8: "the network of an image editor (InstructPix2Pix), which also takes the picture to edit",
    9: "the network of an inpainting model, which also takes a mask and the masked picture",
}
_WANTED: Final = (
    "Name the text-to-image pipeline that it was made from: training, audits and the checks know networks that are "
    "told the noised latents, the time and the prompt alone"
)


def no_beta_schedule(scheduler: Any) -> str | None:
    """Why a scheduler is not that of a diffusion model with a discrete beta schedule, or None where it is.

    Args:
        scheduler: of diffusers, of any class.
    """
    name, config = type(scheduler).__name__, scheduler.config
    if name.startswith("EDM"):
        return "which scales the network's input and output by the noise level (EDM preconditioning)"
    if "Flow" in name or config.get("use_flow_sigmas") or str(config.get("prediction_type")).startswith("flow"):
        return "which samples a flow-matching model"
    if config.get("timestep_type") == "continuous":
        return "which gives the network continuous timesteps"
    own = getattr(scheduler, "alphas_cumprod", None)
    if own is None or config.get("prediction_type") is None:
        return "which has no beta schedule"
    try:
        plain = DDPMScheduler.from_config(config).alphas_cumprod
    except NotImplementedError:
        return f"whose beta schedule '{config.get('beta_schedule')}' only it knows"
    if own.shape != plain.shape or not torch.allclose(own.cpu().float(), plain, atol=1e-4):
        return "which noises otherwise than its betas say"
    return None


def check_diffusion(scheduler: Any, what: str, option: str) -> None:
    """Refuse a diffusion family's model whose scheduler is none with a discrete beta schedule.

    Args:
        scheduler: the pipeline's own; None where diffusers has no such class.

    Raises:
        ValueError: says what the scheduler does, and what can be done.
    """
    reason = None if scheduler is None else no_beta_schedule(scheduler)
    if reason is None:
        return
    draws = hasattr(scheduler, "scale_model_input") and hasattr(scheduler, "init_noise_sigma")
    raise ValueError(
        f"{option}: {what} comes with {type(scheduler).__name__}, {reason}. Training and measuring would use wrong "
        "noise: they know this family by a discrete beta schedule (DDPM, DDIM, PNDM, Euler, DPM-Solver, UniPC, ...). "
        "If the model was trained by one, put that scheduler into the pipeline (scheduler/scheduler_config.json, or "
        "pipe.scheduler)"
        + ("; if not, verify, and probe without --attack, which only draw images, can use the model" if draws else "")
    )


def check_flow(config: dict[str, Any], what: str, option: str) -> None:
    """Refuse a flow model whose scheduler is none of diffusers' flow-matching ones: they name the shift otherwise.

    Args:
        config: of the scheduler, with its ``_class_name``.

    Raises:
        ValueError: names the scheduler that works.
    """
    name = str(config.get("_class_name", ""))
    if not name or "FlowMatch" in name:
        return
    shift = config.get("flow_shift") or config.get("shift") or 1.0
    raise ValueError(
        f"{option}: {what} comes with {name}, and this family is trained and measured by the table of "
        "FlowMatchEulerDiscreteScheduler. Put that scheduler into the pipeline (scheduler/scheduler_config.json, or "
        f"pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift={float(shift):g})): it differs in how images are "
        "sampled, not in what the network learns"
    )


def check_classes(kinds: dict[str, Any], index: dict[str, Any], parts: tuple[str, ...], what: str, option: str) -> None:
    """Refuse a pipeline whose network is of another class than the family's (a ControlNet, a video model).

    Args:
        kinds: part -> class of the family.
        index: the folder's model_index.json.
        parts: the parts to look at.

    Raises:
        ValueError: names part and class.
    """
    for part in parts:
        named = index.get(part)
        given = str(named[1]) if isinstance(named, list) and len(named) == 2 and named[1] else None
        if part in kinds and given is not None and given != kinds[part].__name__:
            raise ValueError(
                f"{option}: the {part} of {what} is a {given}, where this family has a {kinds[part].__name__}. "
                f"{_WANTED}"
            )


def check_sides(height: int, width: int | None, factor: int, of: str) -> int:
    """Refuse a picture whose sides are no multiples of ``factor``; the width, that of a square where it is None.

    Args:
        of: who asks for the multiple.

    Raises:
        ValueError: names the option.
    """
    width = height if width is None else width
    if height % factor or width % factor:
        named = f"data.resolution: {height}" if height == width else f"data.buckets: {width}x{height}"
        raise ValueError(f"{named} must be a multiple of {factor} for {of}, on each side")
    return width


def check_vae_channels(takes: int, latents: int, what: str, option: str) -> None:
    """Refuse a network whose input is more, or less, than the VAE's latents.

    Raises:
        ValueError: says what such a network is.
    """
    if takes != latents:
        extra = _EXTRA.get(takes, "one that also takes something else") if takes > latents else "made for another VAE"
        raise ValueError(
            f"{option}: the network of {what} takes {takes} channels, and its VAE's latents have {latents}: it is "
            f"{extra}. {_WANTED}"
        )


def check_unet(config: Any, latents: int, added: str | None, values: int | None, what: str, option: str) -> None:
    """Refuse a UNet that predicts, or is told, something else than a text-to-image model's.

    Args:
        added: the ``addition_embed_type`` that the family gives.
        values: how many values the family's added embeddings have, pooled prompt and time ids together.

    Raises:
        ValueError: says what it is told.
    """
    told = None
    if int(config.out_channels) != latents:
        told = f"predicts {config.out_channels} channels for latents of {latents}"
    elif config.get("class_embed_type") or config.get("num_class_embeds"):
        told = "is told class labels besides the prompt"
    elif config.get("addition_embed_type") != added:
        told = f"is told '{config.get('addition_embed_type')}' besides the prompt, where this family has '{added}'"
    elif config.get("encoder_hid_dim_type") is not None:
        told = (
            f"puts '{config.encoder_hid_dim_type}' before the prompt (an IP-adapter does: pipe.unload_ip_adapter() "
            "takes it out)"
        )
    elif values is not None and config.get("projection_class_embeddings_input_dim") != values:
        told = (
            f"is told {config.get('projection_class_embeddings_input_dim')} added values, where this family gives "
            f"{values} (SDXL's refiner does)"
        )
    if told is not None:
        raise ValueError(f"{option}: the network of {what} {told}. {_WANTED}")
