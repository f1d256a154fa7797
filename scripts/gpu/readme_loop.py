"""One rank of the README's own-loop lines, as printed, on the device that there is; own_loop.py launches it.

    torchrun --nproc_per_node=N -m scripts.gpu.readme_loop ddp
    accelerate launch -m scripts.gpu.readme_loop accelerate

``ddp`` makes the process group itself, over NCCL and nothing else where there is a GPU: what the filter tells the other
ranks must then travel over the GPU. Says ``rank N: ...`` at the end, where all of it was right.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import torch
import torch.distributed as dist

from memsieve import LoopFilter
from tests.readme_loop import made_as_printed, run_the_loop

IMAGES = 4  # of each rank


def comes_back(scope: dict[str, Any]) -> bool:
    """Whether a state that is saved and loaded again, as plain values, gives this rank the groups that it had."""
    sieve: LoopFilter = scope["sieve"]
    stream = io.BytesIO()
    torch.save(sieve.state_dict(), stream)
    stream.seek(0)
    fresh = made_as_printed(scope)
    fresh.load_state_dict(torch.load(stream, weights_only=True))
    groups = [one.filter.groups for one in (sieve, fresh)]
    mine, again = (dict(zip(known.names, known["exposures"].tolist(), strict=True)) for known in groups)
    return mine == again and known_to(fresh) == known_to(sieve)


def known_to(sieve: LoopFilter) -> int:
    """Images that a filter has met, held-out ones too."""
    return sieve.filter.n_groups + len(sieve.filter.held_out)


def check(engine: str, rank: int, device: str) -> dict[str, Any]:
    """Run the lines; what this rank holds afterwards.

    Raises:
        RuntimeError: where ranks differ, where a step left the weights alone, or where evidence is missing.
    """
    scope = run_the_loop(engine, keys=[f"rank {rank}, image {i}" for i in range(IMAGES)], device=device)
    sieve, weight = scope["sieve"], next(scope["unet"].parameters()).detach()
    sums = sieve.exchange.gather_objects(weight.double().sum().item())
    if len(set(sums)) > 1:
        raise RuntimeError(f"after the same steps the weights of the ranks differ: their sums are {sums}")
    if torch.equal(weight, scope["before"]):
        raise RuntimeError("two steps did not change the weights")
    if known_to(sieve) != IMAGES * len(sums):
        raise RuntimeError(f"the filter knows {known_to(sieve)} images of {IMAGES * len(sums)}")
    if not comes_back(scope):
        raise RuntimeError("the filter's state came back different")
    return {"device": device, "exchange": str(sieve.exchange.device), "images": known_to(sieve)}


def main() -> None:
    """The rank's place comes from the launcher's variables."""
    engine, rank, local = sys.argv[1], int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(local)
    if engine == "ddp":
        dist.init_process_group("nccl" if on_gpu else "gloo")
    found = check(engine, rank, f"cuda:{local}" if on_gpu else "cpu")
    backends = dist.get_backend_config() if dist.is_initialized() else "no process group"
    # One write: ranks share one output.
    sys.stdout.write(f"rank {rank}: {found['images']} images, {found['device']}, {backends}\n")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
