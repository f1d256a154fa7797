"""Two ranks as forks of this process: gloo's real collectives, and no Python that starts anew."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

__all__ = ["on_two_ranks"]

PATIENCE = 60.0
"""Seconds that a rank may take."""


def on_two_ranks(work: Callable[[int, Any], Any], port: int) -> list[Any]:
    """What ``work(rank, accelerator)`` gives on each rank, or the error that it raised."""
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    ranks = [context.Process(target=_rank, args=(work, rank, port, pipes[rank][1])) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        return [receiver.recv() if receiver.poll(PATIENCE) else None for receiver, _ in pipes]
    finally:
        for process in ranks:
            process.join(PATIENCE)
            process.kill()


def _rank(work: Callable[[int, Any], Any], rank: int, port: int, sender: Any) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
    try:
        sender.send(work(rank, Accelerator(cpu=True)))
    except Exception as error:
        sender.send(error)
