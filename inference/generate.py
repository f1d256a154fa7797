"""Images from any diffusers text-to-image pipeline, each fixed by (seed, prompt index, j) alone."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memsieve.filtering.denoisers.registry import family_of
from memsieve.inference.progress import progress_bar

__all__ = [
    "SCHEDULERS",
    "GenerateSettings",
    "for_each_prompt",
    "generate",
    "guidance_arguments",
    "image_seed",
    "load_pipeline",
    "sampling_scheduler",
]

SCHEDULERS = ("auto", "ddim", "own")


def image_seed(seed: int, prompt_index: int | str, j: int) -> int:
    """The seed of one image: 63 bits of a hash, so that neighbouring numbers give unrelated noise."""
    digest = hashlib.sha256(f"{seed}:{prompt_index}:{j}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def load_pipeline(
    path: str | Path, *, device: str | None = None, dtype: torch.dtype | None = None, base: str | None = None
) -> Any:
    """A diffusers pipeline from a folder, a single file, or the hub or its cache; or a LoRA, in its base.

    Weights are read as safetensors alone, as training reads them.

    Args:
        base: of a LoRA's file that names none itself.

    Raises:
        ValueError: there is no such pipeline, it cannot be reached or loaded, a part has pickled weights only, or the
            network takes more than a prompt (inpainting, image editing).
    """
    from memsieve.filtering.denoisers.hub import pipeline_folder
    from memsieve.filtering.denoisers.lora_files import base_of, fuse_lora, with_base
    from memsieve.filtering.denoisers.model_files import named_file
    from memsieve.filtering.denoisers.registry import check_drawn, open_denoiser
    from memsieve.filtering.denoisers.whole import whole_pipeline

    named = with_base(str(path), base, "--model")
    adapts = base_of(named, "--model")
    if adapts is not None:
        pipe = load_pipeline(adapts, dtype=dtype)
        fuse_lora(pipe, named, "--model")
    elif named_file(named, "--model") is not None:
        kind = dtype or torch.float32
        pipe = open_denoiser(named, dtype=kind, model_dtype=kind, option="--model").own_pipeline()
    else:
        pipe = whole_pipeline(pipeline_folder(named, "--model"), dtype or torch.float32)
        check_drawn(pipe)
    return pipe if device is None else pipe.to(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSettings:
    """How images are drawn.

    Args:
        steps: of the sampler.
        batch: images at a time.
        seed: with the prompt's place and the image's number it fixes the noise.
        scheduler: ``auto`` takes deterministic DDIM for diffusion models and the own scheduler for flow models;
            ``ddim`` insists; ``own`` keeps the pipeline's.
        call: passed to the pipeline's call, for example height and width.

    Raises:
        ValueError: a number below 1.
    """

    steps: int = 20
    guidance_scale: float = 7.5
    batch: int = 8
    seed: int = 0
    scheduler: str = "auto"
    call: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")


def generate(
    pipe_or_path: Any,
    prompts: Sequence[str],
    seeds_per_prompt: int = 1,
    settings: GenerateSettings | None = None,
    *,
    numbers: Sequence[int] | None = None,
    progress: bool = True,
) -> Tensor:
    """Generate ``seeds_per_prompt`` images for each prompt: float32 [N, 3, H, W] in [-1, 1] on the CPU.

    Image ``i * seeds_per_prompt + j`` belongs to prompt ``i``. Its noise comes from a CPU generator of its own, so that
    it depends neither on the batch nor on the device (but for rounding). The pipeline is given back as it came.

    Args:
        numbers: the prompts' places in a longer list, of which these are a part: they fix the noise.

    Raises:
        ValueError: no prompts, a number below 1, an unknown or impossible scheduler, a pipeline that takes no prompt.
    """
    settings = settings or GenerateSettings()
    if seeds_per_prompt < 1:
        raise ValueError(f"seeds_per_prompt = {seeds_per_prompt}: must be at least 1")
    if isinstance(prompts, str) or not prompts:
        raise ValueError("prompts must be a list of at least one string")
    pipe = load_pipeline(pipe_or_path) if isinstance(pipe_or_path, (str, Path)) else pipe_or_path
    options = _options(pipe, settings)
    places = list(range(len(prompts))) if numbers is None else list(numbers)
    jobs = [(index, j) for index in range(len(prompts)) for j in range(seeds_per_prompt)]
    images: list[Tensor] = []
    blanked = 0
    with _prepared(pipe, settings.scheduler), progress_bar(progress) as bar:
        task = bar.add_task("generating", total=len(jobs))
        for start in range(0, len(jobs), settings.batch):
            part = jobs[start : start + settings.batch]
            seeds = [image_seed(settings.seed, places[index], j) for index, j in part]
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            given = [prompts[index] for index, _ in part]
            output = pipe(prompt=given, generator=generators, **for_each_prompt(options, len(given)))
            images.append(output.images.detach().to("cpu", torch.float32) * 2 - 1)
            blanked += sum(bool(flag) for flag in getattr(output, "nsfw_content_detected", None) or [])
            bar.advance(task, len(part))
    if blanked:
        said = f"the pipeline's safety checker blanked {blanked} of {len(jobs)} images"
        warnings.warn(f"{said}: rates measured on them are wrong", stacklevel=2)
    return torch.cat(images).clamp(-1, 1)


def _options(pipe: Any, settings: GenerateSettings) -> dict[str, Any]:
    """All arguments of ``pipe``'s call but the prompts and their generators."""
    accepted = inspect.signature(type(pipe).__call__).parameters
    if "prompt" not in accepted:
        raise ValueError(f"{type(pipe).__name__} takes no prompt: it is not a text-to-image pipeline")
    given = {"num_inference_steps": settings.steps, "output_type": "pt", **settings.call}
    return {**guidance_arguments(pipe, settings.guidance_scale), **given}


def guidance_arguments(pipe: Any, scale: float) -> dict[str, Any]:
    """How ``pipe`` is told the guidance scale, 1 for none, and to leave prompt and size as they are (PixArt)."""
    accepted = inspect.signature(type(pipe).__call__).parameters
    found: dict[str, Any] = {name: False for name in ("use_resolution_binning", "clean_caption") if name in accepted}
    family = family_of(pipe)
    if family is not None:
        return {**found, **family.guidance(pipe, scale)}
    return {**found, "guidance_scale": scale} if "guidance_scale" in accepted else found


def for_each_prompt(options: Mapping[str, Any], count: int) -> dict[str, Any]:
    """A negative prompt for each of ``count`` prompts: Qwen-Image's pipeline takes one alone for one image."""
    negative = options.get("negative_prompt")
    return {**options, "negative_prompt": [negative] * count} if isinstance(negative, str) else dict(options)


@contextmanager
def _prepared(pipe: Any, scheduler: str) -> Iterator[None]:
    """Evaluation mode, the wanted scheduler and a quiet progress bar; all as before on the way out."""
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    modes = [(module, module.training) for whole in modules for module in whole.modules()]
    own, quiet = pipe.scheduler, dict(getattr(pipe, "_progress_bar_config", {}))
    replacement = sampling_scheduler(pipe, scheduler)
    try:
        pipe.scheduler = replacement
        pipe.set_progress_bar_config(disable=True)
        for module in modules:
            module.eval()
        yield
    finally:
        pipe.scheduler = own
        pipe.set_progress_bar_config(**quiet)
        for module, training in modes:
            module.training = training


def sampling_scheduler(pipe: Any, name: str) -> Any:
    """A scheduler of its own for sampling with ``pipe``, whose own stays untouched: ``name`` is one of ``SCHEDULERS``.

    ``auto`` is DDIM for diffusion models with a discrete beta schedule, and a copy of the pipeline's own for others
    (flow matching, EDM).

    Raises:
        ValueError: an unknown name, or DDIM for one of the others.
    """
    from diffusers import DDIMScheduler

    from memsieve.filtering.denoisers.supported import no_beta_schedule

    if name not in SCHEDULERS:
        raise ValueError(f"scheduler = '{name}': must be one of {', '.join(SCHEDULERS)}")
    reason = no_beta_schedule(pipe.scheduler)
    if name == "own" or (name == "auto" and reason is not None):
        # A copy: schedulers keep counters, and the caller's must not move.
        return type(pipe.scheduler).from_config(pipe.scheduler.config)
    if reason is not None:
        raise ValueError(f"scheduler = 'ddim' does not fit {type(pipe.scheduler).__name__}, {reason}; take 'own'")
    # Every value of the old scheduler is passed on by hand: from_config drops those that its constructor filled in,
    # and a pipeline in memory and the same one loaded from disk would then sample differently.
    known = inspect.signature(DDIMScheduler.__init__).parameters
    config = {key: value for key, value in pipe.scheduler.config.items() if key in known}
    config.setdefault("set_alpha_to_one", False)
    if getattr(pipe, "vae", None) is not None:
        config["clip_sample"] = False  # as diffusers itself insists: latents are not confined to [-1, 1]
    return DDIMScheduler(**config)
