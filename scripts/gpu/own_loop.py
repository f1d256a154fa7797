"""The README's own-loop lines and both examples of docs/examples, launched on the devices that there are.

All GPUs over NCCL; one GPU with one process; without a GPU two processes of the CPU over gloo. A row for each says how
many seconds it took and whether it worked; what it printed is kept beside.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.markup import escape
from rich.table import Table

from scripts.gpu.data import write_folder
from scripts.gpu.models import RESOLUTION, build

__all__ = ["PARTS", "Devices", "check_own_loops", "launch", "own_loop_table"]

ROOT: Final = Path(__file__).resolve().parents[2]
PARTS: Final = ("readme_loop_ddp", "readme_loop_accelerate", "filter_in_your_loop", "filter_in_a_lora_loop")
README_LOOP: Final = "scripts.gpu.readme_loop"
NO_TIME: Final = "no time left"

# The message of an exception at the end of a traceback; torch puts the rank before it.
_RAISED: Final = re.compile(r"^(?:\[rank\d+\]: ?)?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)(?:: .*)?)$", re.MULTILINE)
_LAUNCHERS_OWN: Final = ("ChildFailedError", "CalledProcessError", "SignalException")


@dataclass(frozen=True)
class Devices:
    """What the parts run on.

    Attributes:
        ranks: processes.
        name: of the devices and of what joins them, for people.
        launcher: the shipped launch config.
    """

    ranks: int
    name: str
    launcher: str

    @classmethod
    def present(cls) -> Devices:
        """All GPUs, or two processes of the CPU where there is none."""
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if gpus == 0:
            return cls(2, "CPU, gloo", "cpu_2ranks")
        name = f"{torch.cuda.get_device_name()}, NCCL"
        return cls(1, name, "one_gpu") if gpus == 1 else cls(gpus, f"{gpus} x {name}", "ddp_8gpu")

    def command(self, part: str) -> list[str]:
        """How a person would launch the part, up to the script's own arguments."""
        python = [sys.executable, "-m"]
        if part == "readme_loop_ddp":
            torchrun = ["torch.distributed.run", "--standalone", f"--nproc_per_node={self.ranks}"]
            return [*python, *torchrun, "-m", README_LOOP, "ddp"]
        config = str(ROOT / "configs" / "accelerate" / f"{self.launcher}.yaml")
        accelerate = ["accelerate.commands.launch", "--config_file", config, "--num_processes", str(self.ranks)]
        if part == "readme_loop_accelerate":
            return [*python, *accelerate, "-m", README_LOOP, "accelerate"]
        return [*python, *accelerate, str(ROOT / "docs" / "examples" / f"{part}.py")]


def launch(command: list[str], ranks: int, log: Path, seconds: float) -> str:
    """Run a launcher until it ends or its time is over; no process of it is left behind.

    Returns:
        "ok" where it ended well and each rank has said its ``rank N: ...``, else the line of the error that came first.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ, "PYTHONPATH": path, "HF_DATASETS_CACHE": str(log.parent.resolve() / "datasets"),
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "5",
        **({} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}),
    }  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"{NO_TIME} after {seconds:.0f} s"
        finally:
            _end(process)
    text = log.read_text(errors="replace")
    if code != 0:
        return _error(text) or f"exit code {code}"
    silent = set(range(ranks)) - {int(rank) for rank in re.findall(r"rank (\d+): ", text)}
    return f"nothing was said by rank {min(silent)}" if silent else "ok"


def _end(process: subprocess.Popen[bytes]) -> None:
    """The launcher is asked first: its ranks have sessions of their own, and it alone knows them."""
    if process.poll() is not None:
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _error(text: str) -> str:
    """The message of the first exception: those of other ranks and of the launcher follow from it."""
    raised = [line for line in _RAISED.findall(text) if not any(name in line for name in _LAUNCHERS_OWN)]
    lines = [line for line in text.splitlines() if line.strip()]
    return str((raised or lines[-1:] or [""])[0])


def _example(part: str, folder: Path, options: Any) -> list[str]:
    """The arguments of an example, named as diffusers' scripts name them."""
    return [
        "--pretrained_model_name_or_path", str(folder / "model"), "--train_data_dir", str(folder / "train"),
        "--output_dir", str(folder / part), "--resolution", str(RESOLUTION[options.size]),
        "--train_batch_size", str(options.batch_size), "--max_train_steps", str(options.steps),
    ]  # fmt: skip


def _left_behind(part: str, folder: Path, log: Path, images: int) -> str:
    """ "ok" where an example's loss was a number and its checkpoint holds the evidence of all ranks."""
    if re.search(r"rank \d+: loss (nan|inf)", log.read_text(errors="replace")):
        return "the loss was not finite"
    checkpoint = folder / part / "state" / "custom_checkpoint_0.pkl"
    if not checkpoint.is_file():
        return f"it ended well without {checkpoint}"
    state = torch.load(checkpoint, weights_only=True)
    state = state.get("filter", state)  # LoopFilter's
    found = len(state["groups"]["names"]["keys"]) + len(state["panel"]["table"]["names"]["keys"])
    return "ok" if found == images else f"the checkpoint knows {found} of {images} images"


def check_own_loops(options: Any, deadline: float, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """A row for each of ``PARTS``: seconds, ranks, device, and as outcome "ok" or what went wrong.

    Args:
        options: of the command line: ``out``, ``size``, ``steps``, ``batch_size``.
        deadline: on time.monotonic(); what still runs then is ended.
        say: is told of each part before it begins.
    """
    devices, folder = Devices.present(), (options.out / "own_loop").resolve()
    row: dict[str, Any] = {"seconds": 0.0, "ranks": devices.ranks, "device": devices.name, "outcome": NO_TIME}
    rows = {part: dict(row) for part in PARTS}
    if time.monotonic() > deadline:
        return rows
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier run left is no sign that this one works
    batch, side = options.batch_size, RESOLUTION[options.size]
    write_folder(folder / "train", 2 * batch * devices.ranks, side, 0)  # every image has its turn in two steps
    build("sd", options.size).save_pretrained(folder / "model", safe_serialization=True)
    for part, row in rows.items():
        began, log = time.monotonic(), folder / f"{part}.log"
        if began > deadline:
            continue
        say(part)
        arguments = [] if part.startswith("readme") else _example(part, folder, options)
        row["outcome"] = launch([*devices.command(part), *arguments], devices.ranks, log, deadline - began)
        if arguments and row["outcome"] == "ok":
            row["outcome"] = _left_behind(part, folder, log, min(options.steps, 2) * batch * devices.ranks)
        row["seconds"] = time.monotonic() - began
    return rows


def own_loop_table(rows: dict[str, dict[str, Any]]) -> Table:
    """What is printed of them."""
    made = Table(title="The filter in one's own loop")
    for column in ("part", "ranks", "device", "seconds", "outcome"):
        made.add_column(column, justify="right" if column in ("ranks", "seconds") else "left", overflow="fold")
    for part, row in rows.items():
        made.add_row(part, str(row["ranks"]), row["device"], f"{row['seconds']:.1f}", escape(row["outcome"]))
    return made
