"""LoRA files: written as diffusers and kohya's tools load them, found with their base, added to a pipeline's parts."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from memsieve.filtering.denoisers.lora import ADAPTER, adapted_layers, has_adapter
from memsieve.filtering.denoisers.model_files import JOINED, named_file, spelled_out, tensor_names
from memsieve.filtering.files import write_json
from memsieve.filtering.settings import expand_home

__all__ = ["KOHYA_FILE", "LORA_FILE", "adapts_text", "base_of", "export_lora", "fuse_lora", "with_base"]

LORA_FILE: Final = "pytorch_lora_weights.safetensors"
"""The name that diffusers' ``load_lora_weights`` looks for."""
KOHYA_FILE: Final = "kohya.safetensors"
"""Of the same adapter in the names that ComfyUI, A1111 and kohya's sd-scripts read."""
_PEFT_FILE: Final = "adapter_model.safetensors"
_PEFT_CONFIG: Final = "adapter_config.json"
_BASE_FILE: Final = "base_model.json"
_DOWN: Final = ("lora_A.weight", ".down.weight")
"""Ends of the names of a layer's first matrix, once diffusers has converted them."""


def export_lora(
    denoiser: Any, folder: Path, model: torch.nn.Module, base: str, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Write the adapter so that the family's plain pipeline takes it with ``load_lora_weights(folder)``; of a UNet also
    as ``kohya.safetensors``, by diffusers' own converter, which knows no other networks.

    alpha / rank is multiplied into B and alpha written as the rank, so that programs that read no alpha (of diffusers'
    files it stands in the metadata) give the adapter the strength it was trained at. A pipeline without
    ``load_lora_weights`` (PixArt) gets peft's own files, for ``PeftModel.from_pretrained(pipe.transformer, folder)``,
    as in diffusers' example for it.

    Args:
        model: the bare network.
        base: the folder, file or hub id of what is adapted, noted beside the weights.
        weights: its parameters by name, where ``model`` itself does not hold them.
    """
    from peft.utils import get_peft_model_state_dict

    module: Any = model
    pipe = denoiser.pipeline(module)
    (part,) = [name for name, component in pipe.components.items() if component is module]
    config = copy.copy(module.peft_config[ADAPTER])
    scale, config.lora_alpha = config.lora_alpha / config.r, config.r
    state = get_peft_model_state_dict(module, state_dict=weights, adapter_name=ADAPTER)
    layers = {
        name: (value.detach() * (scale if ".lora_B." in name else 1.0)).cpu().contiguous()
        for name, value in state.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    if hasattr(type(pipe), "save_lora_weights"):
        # In peft's names. diffusers' examples rename those of a UNet, attention layers otherwise than the rest, and a
        # file with both kinds of names loads in part.
        options = {f"{part}_lora_layers": layers, f"{part}_lora_adapter_metadata": config.to_dict()}
        type(pipe).save_lora_weights(str(folder), weight_name=LORA_FILE, safe_serialization=True, **options)
    else:
        config.save_pretrained(str(folder))
        save_file({f"base_model.model.{name}": value for name, value in layers.items()}, folder / _PEFT_FILE)
    if part == "unet":
        _write_kohya(layers, config.r, folder / KOHYA_FILE)
    write_json(folder / _BASE_FILE, {"base_model": spelled_out(base)})


def _write_kohya(layers: dict[str, torch.Tensor], rank: int, file: Path) -> None:
    from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya

    converted = convert_state_dict_to_kohya({f"unet.{name}": value for name, value in layers.items()})
    said = {"ss_network_module": "networks.lora", "ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
    # Its alphas are whole numbers, and sd-scripts copies them into weights.
    save_file({name: value.float() for name, value in converted.items()}, file, {"format": "pt", **said})


def base_of(named: str, option: str = "model.path") -> str | None:
    """The base model of a LoRA: a folder that ``export_lora`` wrote, or a file of diffusers', kohya's or peft's; None
    where ``named`` is none.

    Args:
        named: of a file, its base may stand behind ``::``.

    Raises:
        ValueError: nothing says which model it adapts, or the file cannot be read.
    """
    file = named_file(named, option)
    if file is not None:
        return (file.beside or _noted(file.path.parent, str(file.path), option)) if file.is_lora else None
    place = Path(expand_home(named))
    if not any((place / name).is_file() for name in (LORA_FILE, _PEFT_FILE)):
        return None
    return _noted(place, named, option)


def with_base(named: str, base: str | None, option: str = "model.path") -> str:
    """``named`` with ``base`` behind it, where it is the file of a LoRA that nothing else names the base of."""
    file = named_file(named, option)
    if base is None or file is None or file.beside or not file.is_lora or (file.path.parent / _BASE_FILE).is_file():
        return named
    return f"{named}{JOINED}{base}"


def _noted(folder: Path, what: str, option: str) -> str:
    """The base that ``base_model.json`` in ``folder`` names."""
    try:
        named = json.loads((folder / _BASE_FILE).read_text(encoding="utf-8"))["base_model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        spelled = f"name it behind the file ({what}::BASE), or " if Path(what).is_file() else ""
        raise ValueError(
            f"{option}: '{what}' holds a LoRA, and no {_BASE_FILE} that names its base model; {spelled}write "
            f'{{"base_model": "FOLDER OR HUB ID"}} there'
        ) from error
    return str(named)


def _weights_of(named: str, option: str) -> Path:
    """The file with the weights of a LoRA."""
    file = named_file(named, option)
    if file is not None:
        return file.path
    place = Path(expand_home(named))
    return place / (LORA_FILE if (place / LORA_FILE).is_file() else _PEFT_FILE)


def adapts_text(named: str, option: str = "model.path") -> bool:
    """Whether a LoRA adapts text encoders too: with it switched off in the network alone, prompts are not encoded as
    the base encodes them.

    Raises:
        ValueError: its file cannot be read.
    """
    names = tensor_names(_weights_of(named, option), option)
    return any(name.startswith("lora_te") or "text_encoder" in name for name in names)


def fuse_lora(pipe: Any, named: str, option: str = "model.path", *, fuse: bool = True) -> None:
    """Add a LoRA to the weights of a pipeline's parts, in place; or, not ``fuse``, put it in as an adapter that
    ``AdapterOff`` switches off.

    Args:
        named: as ``base_of`` takes it.

    Raises:
        ValueError: it does not fit the model, or fits in part.
    """
    file = _weights_of(named, option)
    try:
        if file.name == _PEFT_FILE and (file.parent / _PEFT_CONFIG).is_file():
            _put_in_by_peft(pipe, file, fuse)
        else:
            _put_in_by_diffusers(pipe, file, fuse)
    except (ValueError, RuntimeError, OSError, KeyError, AttributeError, SafetensorError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{option}: the LoRA in '{named}' does not fit its base model: {said[:300]}") from error


def _put_in_by_diffusers(pipe: Any, file: Path, fuse: bool) -> None:
    kind = type(pipe)
    if not hasattr(kind, "load_lora_weights"):
        raise ValueError(f"a {kind.__name__} takes none of this kind")
    # Said aloud, it reads no pickle where the file is damaged.
    where: dict[str, Any] = {"weight_name": file.name, "use_safetensors": True}
    told = {"unet_config": pipe.unet.config} if hasattr(pipe, "unet") else {}
    state = kind.lora_state_dict(str(file.parent), **where, **told)
    layers = sum(name.endswith(_DOWN) for name in (state[0] if isinstance(state, tuple) else state))
    pipe.load_lora_weights(str(file.parent), **where)
    # diffusers goes on without what has no place in the model, with a warning.
    parts = {name: part for name, part in pipe.components.items() if has_adapter(part)}
    found = sum(len(adapted_layers(part)) for part in parts.values())
    if found == 0 or found != layers:
        raise ValueError(f"of its {layers} layers {found or 'none'} can be put into a {kind.__name__}")
    if fuse:
        pipe.fuse_lora(components=list(parts))
        pipe.unload_lora_weights()


def _put_in_by_peft(pipe: Any, file: Path, fuse: bool) -> None:
    from peft import PeftModel
    from peft.utils import get_peft_model_state_dict

    network = pipe.components.get("transformer") or pipe.components.get("unet")
    if network is None:
        raise ValueError(f"a {type(pipe).__name__} takes none of this kind")
    adapted = PeftModel.from_pretrained(network, str(file.parent))
    # peft goes on with new layers in place of those that the file lacks.
    if get_peft_model_state_dict(adapted).keys() != load_file(file).keys():
        raise ValueError(f"its layers are others than those of a {type(network).__name__}")
    if fuse:
        adapted.merge_and_unload()
