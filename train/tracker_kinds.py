"""How each of accelerate's trackers is begun, and what it is told besides scalars.

Accelerate begins them and gives them scalars. Histograms, tables and pictures are each library's own; where a tracker
has none of a kind, that kind is left out, and docs/training-options.md says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, get_args

import numpy as np
import yaml
from PIL import Image

from memsieve.filtering.files import write_whole
from memsieve.filtering.settings import SettingsError

__all__ = ["KINDS", "Kind", "Place", "TrackerName", "check_installed"]

TrackerName = Literal[
    "wandb", "tensorboard", "trackio", "mlflow", "swanlab", "comet_ml", "clearml", "aim", "dvclive"
]  # fmt: skip
Columns = Mapping[str, np.ndarray]
Rows = Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Place:
    """Of a run: its folder, the name asked for (or None), an identity that a resumed run keeps, and the step that it
    goes on from."""

    folder: Path
    name: str | None
    identity: str
    step: int


class Kind:
    """What all trackers have, by the methods of accelerate's class of it, where they are there."""

    package: ClassVar[str] = ""
    """Imported; its name on PyPI is ``installs``."""
    installs: ClassVar[str] = ""

    def options(self, place: Place) -> dict[str, Any]:
        """Arguments for the library's start."""
        return {}

    def settings(self, tracker: Any, config: Mapping[str, Any]) -> None:
        """Tell it the run's config."""
        tracker.store_init_configuration(dict(_flat(config)))

    def begun(self, tracker: Any, place: Place) -> None:
        """Called once it runs, to keep what a resumed run needs."""

    def histograms(self, tracker: Any, name: str, columns: Columns, step: int) -> None:
        """One a column, named ``NAME/COLUMN``."""

    def table(self, tracker: Any, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        """A few rows of plain values."""
        if hasattr(tracker, "log_table"):
            tracker.log_table(name, columns=list(columns), data=[list(row) for row in rows], step=step)

    def image(self, tracker: Any, name: str, picture: Image.Image, step: int) -> None:
        """A picture."""
        if hasattr(tracker, "log_images"):
            tracker.log_images({name: [picture]}, step=step)


class WandB(Kind):
    """Weights & Biases; how a run is begun: ``wandb_start``."""

    package = installs = "wandb"

    def options(self, place: Place) -> dict[str, Any]:
        named = {"name": place.name} if place.name else {}
        return {"dir": str(place.folder), "resume": "allow", "id": place.identity, **named}

    def settings(self, tracker: Any, config: Mapping[str, Any]) -> None:
        tracker.store_init_configuration(dict(config))

    def histograms(self, tracker: Any, name: str, columns: Columns, step: int) -> None:
        import wandb

        found = {f"{name}/{label}": wandb.Histogram([float(v) for v in values]) for label, values in columns.items()}
        tracker.log(found, step=step)

    def image(self, tracker: Any, name: str, picture: Image.Image, step: int) -> None:
        import wandb

        tracker.log({name: wandb.Image(picture)}, step=step)


class TensorBoard(Kind):
    """Event files in ``OUTPUT/trackers``; what was written after the checkpoint that a run goes on from is hidden."""

    package = installs = "tensorboard"

    def options(self, place: Place) -> dict[str, Any]:
        return {"purge_step": place.step + 1} if place.step else {}

    def settings(self, tracker: Any, config: Mapping[str, Any]) -> None:
        # Its own way, add_hparams, makes a run of its own for each start.
        text = yaml.safe_dump(dict(config), sort_keys=False)
        tracker.writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()), 0)

    def histograms(self, tracker: Any, name: str, columns: Columns, step: int) -> None:
        for label, values in columns.items():
            tracker.writer.add_histogram(f"{name}/{label}", np.asarray(values, dtype=np.float64), step)

    def table(self, tracker: Any, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        tracker.writer.add_text(name, _markdown(columns, rows), step)

    def image(self, tracker: Any, name: str, picture: Image.Image, step: int) -> None:
        tracker.writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")


class Trackio(Kind):
    """Kept on this machine."""

    package = installs = "trackio"

    def options(self, place: Place) -> dict[str, Any]:
        return {"name": place.name or f"{place.folder.name}-{place.identity}", "resume": "allow"}

    def settings(self, tracker: Any, config: Mapping[str, Any]) -> None:
        tracker.tracker.config.update(dict(config))

    def histograms(self, tracker: Any, name: str, columns: Columns, step: int) -> None:
        import trackio

        found = {f"{name}/{label}": trackio.Histogram([float(v) for v in values]) for label, values in columns.items()}
        tracker.log(found, step=step)

    def table(self, tracker: Any, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        import trackio

        tracker.log({name: trackio.Table(columns=list(columns), data=[list(row) for row in rows])}, step=step)

    def image(self, tracker: Any, name: str, picture: Image.Image, step: int) -> None:
        import trackio

        tracker.log({name: trackio.Image(picture)}, step=step)


class MLflow(Kind):
    """The server of ``MLFLOW_TRACKING_URI``, or what MLflow takes where nothing is set."""

    package, installs = "mlflow", "mlflow"

    def options(self, place: Place) -> dict[str, Any]:
        kept = place.folder / "mlflow_id"
        if kept.is_file():
            return {"run_id": kept.read_text(encoding="utf-8").strip()}
        return {"run_name": place.name or place.folder.name}

    def begun(self, tracker: Any, place: Place) -> None:
        write_whole(place.folder / "mlflow_id", tracker.active_run.info.run_id)

    def settings(self, tracker: Any, config: Mapping[str, Any]) -> None:
        import mlflow

        # Its parameters cannot be changed later, and a resumed run may change some.
        mlflow.log_dict(dict(config), "config.yaml")

    def table(self, tracker: Any, name: str, columns: Sequence[str], rows: Rows, step: int) -> None:
        import mlflow

        mlflow.log_text(_markdown(columns, rows), f"{name}-{step:08d}.md")

    def image(self, tracker: Any, name: str, picture: Image.Image, step: int) -> None:
        import mlflow

        mlflow.log_image(picture, key=name, step=step)


class SwanLab(Kind):
    """SwanLab; ``SWANLAB_MODE`` says where to."""

    package = installs = "swanlab"

    def options(self, place: Place) -> dict[str, Any]:
        named = {"experiment_name": place.name} if place.name else {}
        return {"id": place.identity, "resume": "allow", "logdir": str(place.folder / "trackers" / "swanlab"), **named}


class CometML(Kind):
    """Comet; a resumed run is a new experiment."""

    package, installs = "comet_ml", "comet-ml"


class ClearML(Kind):
    """ClearML; a resumed run is a new task."""

    package = installs = "clearml"


class Aim(Kind):
    """Aim's repository in ``OUTPUT/trackers``; a resumed run is a new one."""

    package = installs = "aim"

    def image(self, tracker: Any, name: str, picture: Image.Image, step: int) -> None:
        tracker.log_images({name: picture}, step=step)


class DVCLive(Kind):
    """DVC's files in ``OUTPUT/trackers``."""

    package = installs = "dvclive"

    def options(self, place: Place) -> dict[str, Any]:
        return {"dir": str(place.folder / "trackers" / "dvclive"), "resume": place.step > 0, "save_dvc_exp": False}

    def image(self, tracker: Any, name: str, picture: Image.Image, step: int) -> None:
        tracker.live.log_image(f"{name}-{step:08d}.png", picture)


KINDS: Final[dict[str, Kind]] = {
    "wandb": WandB(), "tensorboard": TensorBoard(), "trackio": Trackio(), "mlflow": MLflow(), "swanlab": SwanLab(),
    "comet_ml": CometML(), "clearml": ClearML(), "aim": Aim(), "dvclive": DVCLive(),
}  # fmt: skip
assert set(KINDS) == set(get_args(TrackerName))


def check_installed(names: Sequence[str]) -> None:
    """Refuse a tracker whose package is not there: accelerate leaves it out with a warning.

    Raises:
        SettingsError: one is missing.
    """
    for name in names:
        kind = KINDS[name]
        if importlib.util.find_spec(kind.package) is None:
            raise SettingsError(
                f"tracking.report_to: {name} needs the package {kind.installs}, which is not installed; run "
                f"pip install {kind.installs}, or leave {name} out"
            )


def _flat(config: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{before}{name}.")
        else:
            found.append((f"{before}{name}", value if isinstance(value, str | int | float | bool) else str(value)))
    return found


def _markdown(columns: Sequence[str], rows: Rows) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
