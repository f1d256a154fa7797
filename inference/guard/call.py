"""What a guarded call asks for: its arguments by name, whether it is guided, and what cannot be measured."""

from __future__ import annotations

import inspect
from typing import Any, Final

from memsieve.filtering.denoisers.base import Denoiser

__all__ = ["PROMPTS", "bound", "guided_by", "images_of", "refuse_unmeasured"]

PROMPTS: Final = ("prompt", "negative_prompt", "pooled_prompt", "negative_pooled_prompt")
"""How the names of a call's arguments begin that say what is drawn."""
_PICTURES: Final = (
    "ip_adapter_image",
    "ip_adapter_image_embeds",
    "negative_ip_adapter_image",
    "negative_ip_adapter_image_embeds",
)
_PASSED_ON: Final = ("cross_attention_kwargs", "joint_attention_kwargs", "attention_kwargs")
_ENCODING: Final = ("clip_skip", "max_sequence_length")


def bound(pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call of ``pipe`` by name."""
    call = dict(inspect.signature(type(pipe).__call__).bind_partial(pipe, *args, **kwargs).arguments)
    call.pop("self", None)
    call.update(call.pop("kwargs", {}))
    return call


def images_of(call: dict[str, Any]) -> int:
    """How many images a call draws, counted as diffusers' pipelines do."""
    prompt = call.get("prompt")
    if prompt is None:
        embeddings = call.get("prompt_embeds")
        prompts = 1 if embeddings is None else len(embeddings)
    else:
        prompts = 1 if isinstance(prompt, str) else len(prompt)
    return prompts * int(call.get("num_images_per_prompt") or 1)


def guided_by(denoiser: Denoiser, pipeline: type, call: dict[str, Any]) -> float:
    """The guidance scale of a call; a negative prompt that the pipeline needs for it is put in where it is left out.

    Raises:
        ValueError: the call asks for no guidance.
    """
    name = denoiser.guidance_name
    takes = inspect.signature(pipeline.__call__).parameters
    asked = float(call.get(name, takes[name].default))
    scale = asked + 1.0 - denoiser.unguided
    if not scale > 1:
        raise ValueError(
            f"{name} = {asked:g}: must be above {denoiser.unguided:g}; without guidance the pipeline never computes "
            "the unconditional branch that the guard compares with"
        )
    if not denoiser.separate_branches or "negative_prompt" not in takes:
        return scale
    names = [part for part in ("negative_prompt_embeds", "negative_pooled_prompt_embeds") if part in takes]
    given = [call.get(part) is not None for part in names]
    if any(given) and not all(given):
        raise ValueError(f"{', '.join(names)}: must be given together, or this pipeline does not guide")
    if not all(given) and call.setdefault("negative_prompt", _empty(call)) is None:
        raise ValueError(
            'negative_prompt = None: must be a text, "" for none; with None this pipeline does not guide, whatever '
            f"{name} says, and never computes the unconditional branch that the guard compares with"
        )
    return scale


def _empty(call: dict[str, Any]) -> str | list[str]:
    """An empty prompt for each prompt of a call."""
    prompt, embeddings = call.get("prompt"), call.get("prompt_embeds")
    if prompt is None and embeddings is not None and len(embeddings) > 1:
        return [""] * len(embeddings)
    return [""] * len(prompt) if isinstance(prompt, list) else ""


def refuse_unmeasured(pipeline: type, call: dict[str, Any], has_threshold: bool) -> None:
    """Refuse arguments with which the magnitude would not be that of the prompt, or not comparable.

    Args:
        has_threshold: whether the guard's threshold was given, so that no ordinary prompts are compared with.

    Raises:
        ValueError: names the argument, why, and the way out.
    """
    if call.get("skip_guidance_layers") is not None:
        raise ValueError(
            "skip_guidance_layers: must be left out; it adds calls of the network that the guard cannot tell from "
            "those that it measures"
        )
    for name in _PICTURES:
        if call.get(name) is not None:
            raise ValueError(
                f"{name}: must be left out; what a picture adds would be measured as the prompt's, and ordinary "
                "prompts have none to compare with"
            )
    for name in _PASSED_ON:
        if call.get(name):
            raise ValueError(
                f"{name}: must be left out; ordinary prompts are measured without it. Give a LoRA its weight before: "
                'pipe.set_adapters("NAME", WEIGHT)'
            )
    usual = inspect.signature(pipeline.__call__).parameters
    for name in _ENCODING:
        if not has_threshold and call.get(name) is not None and call[name] != usual[name].default:
            raise ValueError(
                f"{name} = {call[name]}: ordinary prompts, which give the threshold, are encoded without it; give the "
                "guard a threshold of its own (threshold=...), or leave it out"
            )
