"""What every test runs under: offline, few threads, and no process group left over from another test.

MEMSIEVE_TEST_SEED      seed of the models that tests train (default: 0)
MEMSIEVE_TEST_THREADS   torch's threads (default: 1); see scripts/test --cpus
"""

from __future__ import annotations

import os

# Before anything else is imported: these libraries read them once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin stop each other where there are more than cores
# Tests compare bits and tensors of the processor; scripts/gpu_checks is the check of a GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

SEED = int(os.environ.get("MEMSIEVE_TEST_SEED", "0"))
"""Of everything that the tests train: their results must not hang on it, nor on the number of threads."""
THREADS = int(os.environ.get("MEMSIEVE_TEST_THREADS", "1"))
torch.set_num_threads(THREADS)
LONGER = 30
"""Seconds for which a test that is slow or trains counts, where it has no time limit of its own."""

# Shells ignore SIGINT in what runs behind, and nohup SIGHUP; what tests start inherits it, and some of it is to stop.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: with several processes none is left alone with such a file at the end."""
    seconds: Counter[Path] = Counter()
    for item in items:
        limit = item.get_closest_marker("timeout")
        trains = item.get_closest_marker("slow") or item.get_closest_marker("trains")
        seconds[item.path] += limit.args[0] if limit else LONGER if trains else 0
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(autouse=True)
def no_process_group_left() -> Iterator[None]:
    """Ends a process group that a test left open, and what Accelerate remembers of it."""
    yield
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    torch.distributed.destroy_process_group()
    state = sys.modules.get("accelerate.state")
    if state is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's tiny pipeline, written once."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            from tests.tiny_models import tiny_family  # what it imports is slow

            made[name] = tmp_path_factory.mktemp("families") / name
            tiny_family(name).save_pretrained(made[name], safe_serialization=True)
        return made[name]

    return folder
