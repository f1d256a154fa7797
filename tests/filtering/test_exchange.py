"""What ranks tell each other: real processes over gloo, and one process, where nothing happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from memsieve.filtering.exchange import Exchange
from tests.train.conftest import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks found in the jobs of exchange_worker.py."""
    folder, port = tmp_path_factory.mktemp("exchange"), str(free_port())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).parent / "exchange_worker.py"), str(folder)]
    said = [folder / f"said-{rank}" for rank in range(2)]
    started = []
    try:
        for rank in range(2):
            with said[rank].open("w") as file:
                started.append(subprocess.Popen([*command, str(rank), port], env=environment, stderr=file))
        for process, file_of in zip(started, said, strict=True):
            assert process.wait(timeout=280) == 0, file_of.read_text()[-6000:]
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(2)]


def test_an_exchange_that_was_made_before_the_group_knows_it(ranks: list[dict[str, Any]]) -> None:
    assert [rank["place"] for rank in ranks] == [[0, 2, "cpu"], [1, 2, "cpu"]]


def test_sums_are_exact_in_float64_and_the_same_on_all_ranks(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["sums"] == [2.0**40 + 2.0**-9]
        assert rank["sums_of_tensors"] == [[3, 6], [9, 3 * 2**40]]


def test_rows_and_objects_come_in_the_order_of_ranks(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["rows"] == [[1.0, 3.0], [2.0, 4.0], [11.0, 13.0], [12.0, 14.0]]
        assert rank["objects"] == [{"rank": 0, "names": []}, {"rank": 1, "names": ["ü"]}]


def test_shares_of_any_length_are_gathered(ranks: list[dict[str, Any]]) -> None:
    assert all(rank["bytes_of_any_length"] == [True] * 3 for rank in ranks)


def test_who_meets_goes_on_and_who_waits_in_vain_is_told_what_to_call_where(ranks: list[dict[str, Any]]) -> None:
    assert [rank["both_meet"] for rank in ranks] == ["met", "met"]
    told = ranks[0]["one_comes_alone"]
    assert told.startswith("rank 0 called save, and not all of the other 1 ranks did within 0 s")
    assert "call it on every rank" in told and ranks[1]["one_comes_alone"] == "did not call it"


def test_one_process_gets_back_what_it_gives() -> None:
    exchange = Exchange()
    assert (exchange.rank, exchange.world_size, exchange.device) == (0, 1, torch.device("cpu"))
    assert exchange.sum([1, 2.5]) == [1.0, 2.5]
    values = torch.tensor([[1.0, 2.0]])
    assert torch.equal(exchange.sum_tensor(values), values) and torch.equal(exchange.gather(values), values)
    assert exchange.gather_objects("mine") == ["mine"]
    assert exchange.gather_bytes(b"\0mine\0") == [b"\0mine\0"] and exchange.gather_bytes(b"") == [b""]
    exchange.meet("save")  # waits for nobody


def test_a_device_that_was_named_is_kept() -> None:
    assert Exchange(device="cuda:1").device == torch.device("cuda:1")
