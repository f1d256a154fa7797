"""What a minimisation leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file

from memsieve.filtering.files import write_json
from memsieve.inference.charts import side_by_side
from memsieve.inference.detect.detectors import DetectSettings
from memsieve.inference.guided import GuidedModel
from memsieve.inference.minimize.draw import draw
from memsieve.inference.minimize.edits import Suggestion
from memsieve.inference.minimize.minimize import Minimized

__all__ = ["write_minimized", "write_pictures"]


def write_minimized(out: Path, result: Minimized, suggestions: Sequence[Suggestion]) -> None:
    """``embeddings.safetensors``, the tensors of a pipeline's call by name, and ``minimize.json`` with all else."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {name: value for name, value in result.arguments.items() if hasattr(value, "cpu")}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, out / "embeddings.safetensors")
    written = {**result.as_dict(), "suggestions": [suggestion.as_dict() for suggestion in suggestions]}
    write_json(out / "minimize.json", written)


def write_pictures(out: Path, model: GuidedModel, result: Minimized, settings: DetectSettings) -> None:
    """minimize.png: the images before and after, side by side."""
    before, after = draw(model, result, settings)
    side_by_side(out / "minimize.png", {"as it was": before, "minimised": after})
