"""One rank of test_own_loop_ranks.py, which says what the jobs show.

    torchrun --nproc_per_node=2 tests/filtering/own_loop_worker.py FOLDER TIER

Writes FOLDER/found-RANK.json, an entry a job.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator

from memsieve import MemorizationFilter, Predictions, Visit
from memsieve.filtering.exchange import Exchange
from tests.filtering.one_device_group import OneDeviceGroup, install

OPTIONS: dict[str, Any] = {"signals": ["loss"], "record": [], "false_drop_rate": 0.1, "spare_above": None}
HELD_OUT = [f"h{i}" for i in range(12)]


class Loop:
    """A loop over 24 pairs, two of them learned by heart; what a visit reads is a function of the pair and the window,
    so that any number of ranks reads the same."""

    def __init__(self, sieve: MemorizationFilter, window: int = 0) -> None:
        self.sieve, self.window = sieve, window

    def _measured(self, names: list[str]) -> Any:
        losses = []
        for name in names:
            generator = torch.Generator().manual_seed(hash_of(name) + self.window)
            learned = 3.0 if name in ("c0", "c1") else 0.0
            losses.append(torch.exp(torch.randn(1, generator=generator) - learned).sqrt().expand(16))
        timesteps = torch.full((len(names),), 10)
        return self.sieve.measure(Predictions(torch.zeros(len(names), 16), torch.stack(losses)), timesteps)

    def run(self, windows: int) -> None:
        """Train on."""
        rank, ranks = self.sieve.exchange.rank, self.sieve.exchange.world_size
        for _ in range(windows):
            pairs = [f"c{(self.window * 6 + i) % 24}" for i in range(6)] + ["c0", "c1"]
            mine = list(range(rank, 8, ranks))
            self.sieve.decide([Visit(pairs[i], offset=i) for i in mine], self._measured([pairs[i] for i in mine]))
            held_out = HELD_OUT[6 * (self.window % 2) :][:6]
            self.sieve.calibrate(held_out, self._measured(held_out))
            self.sieve.end_window()
            self.window += 1


def hash_of(name: str) -> int:
    return sum(ord(sign) * 31**place for place, sign in enumerate(name)) * 1000


def standing(sieve: MemorizationFilter) -> dict[str, Any]:
    """What is known of all groups, the same on every rank, and this rank's own part of it."""
    suspects = [[s.group, s.evidence, s.evidence_max, s.p_value, s.exposures, s.trained] for s in sieve.suspects(100)]
    return {
        "groups": suspects,
        "here": sorted(sieve.groups.names),
        "condemned": sieve.condemned,
        "seen": sieve.n_groups,
        "bar": sieve.evidence_bar,
    }


def checkpointed(sieve: MemorizationFilter) -> Accelerator:
    """As docs/your-own-loop.md has it; models and optimizers, which take seconds to import, would be saved beside."""
    accelerator = Accelerator(cpu=True)
    accelerator.register_for_checkpointing(sieve)
    return accelerator


def save_and_load(folder: Path) -> dict[str, Any]:
    sieve = MemorizationFilter(**OPTIONS)
    accelerator = checkpointed(sieve)
    Loop(sieve).run(20)
    accelerator.save_state(str(folder / "two"))
    found: dict[str, Any] = {"saved": standing(sieve), "went on": later(sieve)}
    for name in ("two", "one"):  # saved by two ranks just now, and by one process
        fresh = MemorizationFilter(**OPTIONS)
        checkpointed(fresh).load_state(str(folder / name))
        found[name] = {"loaded": standing(fresh), "went on": later(fresh)}
    return found


def later(sieve: MemorizationFilter) -> dict[str, Any]:
    """How all stand eight windows on."""
    Loop(sieve, 20).run(8)
    return standing(sieve)


def share_of_another_rank(folder: Path) -> str:
    """Rank 0's share handed to every rank, as where only the main process saves."""
    sieve = MemorizationFilter(**OPTIONS)
    Loop(sieve).run(6)
    if sieve.exchange.rank == 0:
        torch.save(sieve.local_state_dict(), folder / "share.pt")
    dist.barrier()
    try:
        MemorizationFilter(**OPTIONS).load_state_dict(torch.load(folder / "share.pt", weights_only=True))
    except ValueError as error:
        return str(error)
    return "loaded"


def only_the_main_process_saves(folder: Path) -> str:
    sieve = MemorizationFilter(**OPTIONS, exchange=Exchange(patience=1.0))
    accelerator = checkpointed(sieve)
    Loop(sieve).run(2)
    told = ""
    if accelerator.is_main_process:
        try:
            accelerator.save_state(str(folder / "alone"))
        except RuntimeError as error:
            told = str(error)
    dist.barrier()
    return told


def too_few_held_out(folder: Path) -> str:
    sieve = MemorizationFilter(**{**OPTIONS, "false_drop_rate": 0.05})
    try:
        Loop(sieve).run(20)
    except ValueError as error:
        return f"window {sieve.step}: {error}"
    return "nothing"


def readme(engine: str, device: str = "cpu") -> dict[str, Any]:
    from tests.readme_loop import run_the_loop

    scope = run_the_loop(engine, keys="abcd" if dist.get_rank() else "efgh", device=device)
    weight = next(scope["unet"].parameters())
    moved = not torch.equal(weight, scope["before"])
    return {"images": scope["sieve"].filter.n_groups, "moved": moved, "weight": weight.double().sum().item()}


def readme_lines(folder: Path) -> dict[str, Any]:
    return {engine: readme(engine) for engine in ("ddp", "accelerate")}


def readme_lines_on_one_device_type(folder: Path) -> dict[str, Any]:
    with one_device_group(folder):
        return readme("", device="lazy")


def one_device_type(folder: Path) -> dict[str, Any]:
    """The filter is made before the process group, as before ``Accelerator()``."""
    sieve = MemorizationFilter(**OPTIONS)
    with one_device_group(folder):
        try:
            dist.all_reduce(torch.ones(1))
            refused = ""
        except RuntimeError as error:
            refused = str(error)
        Loop(sieve).run(20)
        fresh = MemorizationFilter(**OPTIONS)
        fresh.load_state_dict(sieve.state_dict())
        device = str(sieve.exchange.device)
        return {"device": device, "refused": refused, "all": standing(sieve), "again": standing(fresh)}


@contextmanager
def one_device_group(folder: Path) -> Iterator[None]:
    install()
    dist.init_process_group(OneDeviceGroup.name, init_method=f"file://{folder / 'rendezvous'}", **place())
    try:
        yield
    finally:
        dist.destroy_process_group()


def place() -> dict[str, int]:
    return {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}


TIERS: dict[str, list[Callable[[Path], Any]]] = {
    "fast": [
        save_and_load, share_of_another_rank, only_the_main_process_saves, too_few_held_out,
    ],
    "slow": [readme_lines],
}  # fmt: skip
ALONE = {"fast": one_device_type, "slow": readme_lines_on_one_device_type}


def main() -> None:
    folder, tier = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    found: dict[str, Any] = {ALONE[tier].__name__: ALONE[tier](folder)}
    dist.init_process_group("cpu:gloo")
    found |= {job.__name__: job(folder) for job in TIERS[tier]}
    dist.destroy_process_group()
    (folder / f"found-{place()['rank']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
