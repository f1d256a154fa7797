"""What must be the same on all ranks is compared before anything is trained."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from typing import Any

from accelerate.utils import gather_object

from memsieve.filtering.data.loader import WindowLoader
from memsieve.filtering.settings import SettingsError
from memsieve.train.config import RunConfig

__all__ = ["check_ranks_agree"]


def check_ranks_agree(accelerator: Any, config: RunConfig, loader: WindowLoader) -> None:
    """Compare settings, data, versions and the run folder over all ranks; a collective.

    Raises:
        SettingsError: on all ranks alike; names what differs and on which ranks.
    """
    if accelerator.num_processes == 1:
        return
    data = {"paths": list(loader.source.identity), "parts": len(loader.source), "streams": loader.n_streams}
    mine = {
        "settings": _digest(config.model_dump(mode="json")),
        "data": _digest(data),
        "version of torch": version("torch"),
        "version of accelerate": version("accelerate"),
        "version of diffusers": version("diffusers"),
        "run folder": (config.output / "config.yaml").is_file(),
    }
    everyone = gather_object([(platform.node(), mine)])
    for name, value in everyone[0][1].items():
        odd = [f"rank {rank} on {node}" for rank, (node, theirs) in enumerate(everyone) if theirs[name] != value]
        if odd:
            raise SettingsError(_sentence(name, ", ".join(odd[:8]), config))


def _sentence(name: str, odd: str, config: RunConfig) -> str:
    if name == "run folder":
        return f"output: '{config.output}' is not seen by {odd}; all ranks need one shared run folder"
    return f"the {name} of {odd} differ from rank 0's; launch all ranks with the same config, data and environment"


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
