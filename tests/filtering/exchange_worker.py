"""One rank of test_exchange.py, which says what the jobs show.

    python tests/filtering/exchange_worker.py FOLDER RANK PORT

Writes FOLDER/found-RANK.json, an entry a job.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from memsieve.filtering import exchange as exchange_module
from memsieve.filtering.exchange import Exchange


def place(exchange: Exchange) -> list[Any]:
    return [exchange.rank, exchange.world_size, str(exchange.device)]


def sums(exchange: Exchange) -> list[float]:
    """Numbers that float32 would round."""
    return exchange.sum([2.0**40 * exchange.rank + 2.0**-10])


def sums_of_tensors(exchange: Exchange) -> list[list[int]]:
    mine = torch.tensor([[1, 2], [3, 2**40]]) * (exchange.rank + 1)
    found: list[list[int]] = exchange.sum_tensor(mine).tolist()
    return found


def rows(exchange: Exchange) -> list[list[float]]:
    """Of a tensor whose rows do not lie one after the other."""
    mine = (torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64) + 10 * exchange.rank).T
    found: list[list[float]] = exchange.gather(mine).tolist()
    return found


def objects(exchange: Exchange) -> list[Any]:
    return exchange.gather_objects({"rank": exchange.rank, "names": ["ü"] * exchange.rank})


def bytes_of_any_length(exchange: Exchange) -> list[bool]:
    """In pieces, less on one rank than on the other; one piece exactly; nothing at all."""
    exchange_module._PIECE = 1000
    found = []
    for everyones in ([b"", b"not as much on every rank" * 100], [b"x" * 1000, b"\0y\0"], [b"", b""]):
        found.append(exchange.gather_bytes(everyones[exchange.rank]) == everyones)
    return found


def both_meet(exchange: Exchange) -> str:
    exchange.meet("save")
    exchange.meet("save")  # once more, at another place of the store
    return "met"


def one_comes_alone(exchange: Exchange) -> str:
    told = "did not call it"
    if exchange.rank == 0:
        try:
            Exchange(patience=0.3).meet("save")
            told = "met"
        except RuntimeError as error:
            told = str(error)
    dist.barrier()
    return told


JOBS: list[Callable[[Exchange], Any]] = [
    place, sums, sums_of_tensors, rows, objects, bytes_of_any_length, both_meet, one_comes_alone,
]  # fmt: skip


def main() -> None:
    folder, rank, port = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    before = Exchange()  # made before the group, as a filter may be
    dist.init_process_group("cpu:gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    found = {job.__name__: job(before) for job in JOBS}
    dist.destroy_process_group()
    (folder / f"found-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
