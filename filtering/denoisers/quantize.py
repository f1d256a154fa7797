"""Frozen parts in fewer bits: bitsandbytes, through diffusers' and transformers' own configs.

nf4 is the four-bit type of QLoRA (Dettmers et al., NeurIPS 2023), int8 that of LLM.int8 (the same, NeurIPS 2022).
The weights of linear layers are held so, and multiplied in the part's own dtype (int8 in float16 throughout);
convolutions, embeddings and norms stay as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import torch

from memsieve.filtering.extras import install

__all__ = ["Bits", "Quantize", "check_quantize", "load_quantised", "loading_options", "precision_of", "weight_bytes"]

Bits = Literal["nf4", "int8"]
_BLOCK: Final = 64
"""Weights of nf4 that share a scale in float32; of int8 each output has one."""


class Quantize(NamedTuple):
    """What is held in fewer bits, and where: weights are quantised as they are put on the device."""

    network: Bits | None
    text: Bits | None
    device: torch.device


def check_quantize(quantize: Quantize) -> None:
    """Refuse what bitsandbytes cannot do here.

    Raises:
        ValueError: it is not installed, or knows nothing of the device.
    """
    named = (
        f"model.quantize: {quantize.network}" if quantize.network else f"model.text_encoder_quantize: {quantize.text}"
    )
    try:
        import bitsandbytes
    except ImportError as error:
        raise ValueError(
            f"{named} needs bitsandbytes, which is not installed: {install('bnb')}, or leave it out"
        ) from error
    known = getattr(bitsandbytes, "supported_torch_devices", {"cuda"})
    if quantize.device.type not in known:
        raise ValueError(
            f"{named}: this bitsandbytes ({bitsandbytes.__version__}) knows {', '.join(sorted(known))}, and the model "
            f"is trained on {quantize.device.type}; leave it out"
        )
    # It says at every call of every layer that it computes in float16.
    said = logging.getLogger("bitsandbytes.autograd._functions")
    if _unsaid not in said.filters:
        said.addFilter(_unsaid)


def _unsaid(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("MatMul8bitLt: inputs will be cast")


def loading_options(kind: Any, bits: Bits, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What ``from_pretrained`` of ``kind``, a class of diffusers or transformers, is told."""
    from transformers import PreTrainedModel  # here: settings name Bits, and are read without it

    if issubclass(kind, PreTrainedModel):
        from transformers import BitsAndBytesConfig
    else:
        from diffusers import BitsAndBytesConfig
    told: dict[str, Any] = {"load_in_8bit": True}
    if bits == "nf4":
        told = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    return {"quantization_config": BitsAndBytesConfig(**told), "device_map": {"": device}}


def load_quantised(load: Callable[[], Any], quantize: Quantize | None) -> Any:
    """What ``load`` gives, a part that is told of ``loading_options``.

    diffusers refuses to quantise on a processor, which bitsandbytes and transformers do; there it is let.
    """
    from diffusers.quantizers import auto

    if quantize is None or quantize.device.type != "cpu":
        return load()
    names = ("bitsandbytes_4bit", "bitsandbytes_8bit")
    kinds = {name: auto.AUTO_QUANTIZER_MAPPING[name] for name in names}
    auto.AUTO_QUANTIZER_MAPPING.update({name: _on_processor(kind) for name, kind in kinds.items()})
    try:
        part = load()
    finally:
        auto.AUTO_QUANTIZER_MAPPING.update(kinds)
    for module in part.modules() if isinstance(part, torch.nn.Module) else ():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Such processors would pack weights anew at the first forward, for layers of some widths alone.
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  (torch types attributes as modules)
    return part


def _on_processor(kind: Any) -> Any:
    class OnProcessor(kind):
        """Without the question whether there is a GPU."""

        def validate_environment(self, *args: Any, **kwargs: Any) -> None:
            """``check_quantize`` has asked."""

    return OnProcessor


def precision_of(module: torch.nn.Module) -> torch.dtype:
    """What ``module`` takes: the dtype of its first parameter that holds numbers, and not packed ones in fewer bits."""
    return next(parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())


def weight_bytes(module: torch.nn.Module, dtype: torch.dtype, bits: Bits | None = None) -> int:
    """Bytes of a part's weights in ``dtype``, its linear layers in ``bits``; from shapes, so of meta tensors too."""
    quantised = {
        id(part.weight): part for part in module.modules() if bits is not None and isinstance(part, torch.nn.Linear)
    }
    total = 0.0
    for parameter in module.parameters():
        if id(parameter) not in quantised:
            total += parameter.numel() * dtype.itemsize
        elif bits == "nf4":
            total += parameter.numel() * (0.5 + 4 / _BLOCK)
        else:
            total += parameter.numel() + 4 * parameter.shape[0]
    return int(total)
