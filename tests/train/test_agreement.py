"""Ranks that were launched with something else each are told so before anything is trained, all of them alike."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from accelerate import Accelerator

from memsieve.filtering.data.sources import open_source
from memsieve.filtering.settings import SettingsError
from memsieve.train import agreement
from memsieve.train.agreement import check_ranks_agree
from memsieve.train.config import RunConfig
from tests.train.forked import on_two_ranks

MakeConfig = Callable[..., RunConfig]


def told(accelerator: Any, config: RunConfig, data: Path) -> str:
    """The refusal, if any. Of a loader its source and its streams are compared."""
    loader: Any = SimpleNamespace(source=open_source(str(data), config.data), n_streams=config.data.streams)
    try:
        check_ranks_agree(accelerator, config, loader)
    except SettingsError as error:
        return str(error)
    return ""


def test_what_differs_is_named_with_the_rank_and_its_node_on_all_ranks(
    make_config: MakeConfig, make_shards: Callable[..., Path], tmp_path: Path, a_port: int
) -> None:
    config, data = make_config(), make_shards(tmp_path / "data", 4, per_shard=2)
    own = make_shards(tmp_path / "own", 2)

    def work(rank: int, accelerator: Any) -> dict[str, str]:
        found = {"nothing": told(accelerator, config, data)}
        other = config.model_copy(deep=True)
        other.train.batch_size += rank
        found["settings"] = told(accelerator, other, data)
        found["data"] = told(accelerator, config, (data, own)[rank])
        accelerator.wait_for_everyone()
        if rank == 0:
            config.output.mkdir()
            (config.output / "config.yaml").write_text("")
        else:  # what rank 0 wrote is not to be seen from the other node
            config.output = tmp_path / "other"
        agreement._digest = lambda values: ""  # the name of the folder is the same there
        found["folder"] = told(accelerator, config, data)
        return found

    node = platform.node()
    for rank, found in enumerate(on_two_ranks(work, a_port)):
        assert isinstance(found, dict), found
        assert found["nothing"] == "", found["nothing"]
        for name in ("settings", "data"):
            assert found[name].startswith(f"the {name} of rank 1 on {node} differ from rank 0's; launch all ranks with")
        folder = (config.output, tmp_path / "other")[rank]
        assert (
            found["folder"]
            == f"output: '{folder}' is not seen by rank 1 on {node}; all ranks need one shared run folder"
        )


def test_a_process_alone_has_nobody_to_agree_with(make_config: MakeConfig, shards: Path) -> None:
    assert told(Accelerator(cpu=True), make_config(), shards / "train") == ""
