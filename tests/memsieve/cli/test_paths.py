"""``~`` in every setting and option that takes a path is the user's home, also in those to come."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import typer
import yaml
from pydantic import BaseModel, TypeAdapter
from typer.testing import CliRunner

from memsieve.cli import app
from memsieve.cli.check import _any_model
from memsieve.cli.paths import PathTyper
from memsieve.filtering.audit.config import AuditRun
from memsieve.filtering.settings import SettingsError, parse_settings
from memsieve.train.config import RunConfig
from tests.train.conftest import picture, save_tiny_model, write_shards

NO_PATHS = {
    "data.image_key", "data.caption_key", "data.split", "validation.prompts", "tracking.project", "tracking.name",
    "filter.never_drop", "filter.always_drop", "model.lora.target_modules", "ray_address", "device",
    "data.buckets", "prior.prompts",
}  # fmt: skip
"""Settings that hold text and no path. A new one is a path (see memsieve.filtering.settings) or is named here."""
NO_PATH_OPTIONS = {
    "set", "overrides", "plant", "similarity", "score", "wandb", "wandb_project", "ray_address", "device", "dtype",
    "detector", "space", "scheduler", "steps", "images_per_prompt", "at_steps", "prompt", "method", "tokens", "replace",
    "engine", "host", "by", "threshold", "data_format",
}  # fmt: skip
"""Options that hold text and no path. Paths have the type Path, or are among the next ones."""
CHECKED_BELOW = {
    "train config",
    "score path",
    "score model",
    "score describe",
    "index shards",
    "index held_out",
    "init model",
    "check model",
    "check data",
    "check held_out",
    "probe data",
    "probe held_out",
}
"""Options of text that name a path, each with a test here."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of one's own, and another folder to work in."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, annotation with its validators) of every setting that is no section."""
    for name, field in model.model_fields.items():
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        sections = [one for one in options if isinstance(one, type) and issubclass(one, BaseModel)]
        if sections:
            yield from fields(sections[0], f"{prefix}{name}.")
        else:
            yield prefix + name, Annotated[(field.annotation, *field.metadata, None)]  # type: ignore[valid-type]


def taken(annotation: Any, value: Any) -> Any:
    try:
        return TypeAdapter(annotation).validate_python(value)
    except ValueError:
        return None


@pytest.mark.parametrize("model", [RunConfig, AuditRun])
def test_every_path_setting_expands_the_home(model: type[BaseModel], home: Path) -> None:
    expanding = set()
    for name, annotation in fields(model):
        for value, expected in (("~/x", f"{home}/x"), (["~/x"], [f"{home}/x"])):
            found = taken(annotation, value)
            if found is None or name in NO_PATHS:
                continue
            found = str(found) if isinstance(found, Path) else found
            assert found == expected, f"{name} takes a text and does not expand it: a path, or one of NO_PATHS?"
            expanding.add(name)
    wanted = {"output", "data.path", "data.held_out_path", "data.keep_list", "data.groups"}
    wanted |= {"model.path", "train.cache", "filter.reference"} if model is RunConfig else {"model", "describe"}
    assert expanding == wanted


def test_a_home_that_nobody_knows_is_refused(home: Path) -> None:
    raw = {"output": "~nobody-of-that-name/run", "model": None, "data": {"path": ["~nobody-of-that-name/a.tar"]}}
    with pytest.raises(SettingsError) as caught:
        parse_settings(AuditRun, raw)
    for name in ("output", "data.path"):
        assert re.search(
            rf"'{name}' = .*no home folder is known for '~nobody-of-that-name'.*in full", str(caught.value)
        )
    result = CliRunner().invoke(app, ["report", "~nobody-of-that-name/run"])
    assert isinstance(result.exception, ValueError) and "--run-folder: no home folder" in str(result.exception)
    (home / "~nobody-of-that-name").mkdir()
    whole = str(home / "~nobody-of-that-name")  # what the message advises
    assert parse_settings(AuditRun, {**raw, "output": whole, "data": {"path": whole}}).output == Path(whole)


def commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command)
        else:
            yield name, command


def test_every_option_is_a_path_that_expands_or_no_path() -> None:
    from typing import get_type_hints

    seen = set()
    for name, command in commands(typer.main.get_command(app)):
        for parameter, hint in get_type_hints(command.callback).items():
            kinds = {hint, *getattr(hint, "__args__", ())}
            if parameter == "return" or not (kinds & {str, list[str]}) or parameter in NO_PATH_OPTIONS:
                continue
            assert f"{name} {parameter}" in CHECKED_BELOW, f"{name}: is {parameter} a path, or one of NO_PATH_OPTIONS?"
            seen.add(f"{name} {parameter}")
    assert seen == CHECKED_BELOW


def test_the_data_of_a_check_may_lie_in_the_home(home: Path) -> None:
    (home / "pictures").mkdir()
    named = (["~/pictures"], None, ["~/others"])
    asked = _any_model("~/model", named, Path("none"), 0.01, {"resolution": 8})
    assert (asked.model, asked.data.path) == (home / "model", str(home / "pictures"))
    assert asked.data.held_out_path == [str(home / "others")]


def typers(typer_app: typer.Typer) -> Iterator[typer.Typer]:
    yield typer_app
    for group in typer_app.registered_groups:
        assert group.typer_instance is not None
        yield from typers(group.typer_instance)


def test_all_commands_are_of_the_kind_that_expands() -> None:
    assert all(isinstance(one, PathTyper) for one in typers(app)) and len(list(typers(app))) == 4


def test_paths_of_a_command_are_expanded_defaults_and_lists_too(home: Path) -> None:
    small, got = PathTyper(), {}

    @small.command()
    def show(
        where: Path,
        out: Annotated[Path, typer.Option()] = Path("~/default"),
        more: Annotated[list[Path] | None, typer.Option()] = None,
        other: Annotated[Path | None, typer.Option()] = None,
        text: str = "~",
    ) -> None:
        got.update(where=where, out=out, more=more, other=other, text=text)

    result = CliRunner().invoke(small, ["~/a", "--more", "~/b", "--more", "c"])
    assert result.exit_code == 0, result.output
    assert got == {"where": home / "a", "out": home / "default", "more": [home / "b", Path("c")], "other": None,
                   "text": "~"}  # fmt: skip


def test_a_run_that_names_its_home_lies_there(home: Path) -> None:
    """The whole of it: config, data, model, cache and output."""
    save_tiny_model(home / "model")
    write_shards(home / "data", 8, per_shard=4)
    raw = {
        "output": "~/runs/x", "model": {"path": "~/model"}, "filter": {"enabled": False},
        "data": {"path": "~/data", "resolution": 16, "held_out_fraction": 0.0, "streams": 1},
        "train": {"steps": 1, "batch_size": 2, "cache": "~/cache"}, "checkpoint": {"export": False},
    }  # fmt: skip
    (home / "c.yaml").write_text(yaml.safe_dump(raw))
    result = CliRunner().invoke(app, ["train", "~/c.yaml"])
    assert result.exit_code == 0, result.output
    assert (home / "runs" / "x" / "summary.json").is_file() and (home / "cache").is_dir()
    assert not list(Path.cwd().iterdir()), "no folder named ~"


def test_audits_indexes_and_reports_take_the_home(home: Path) -> None:
    save_tiny_model(home / "model")
    write_shards(home / "data", 8, per_shard=4)
    write_shards(home / "held", 8, per_shard=4, first=100)

    def run(*words: str) -> None:
        result = CliRunner().invoke(app, list(words))
        assert result.exit_code == 0, (words, result.output, result.exception)

    torch.jit.script(torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())).save(str(home / "mean.pt"))
    (home / "mean.json").write_text(json.dumps({"side": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}))
    words = ("--out", "~/audit", "--draws", "1", "--describe", "~/mean.pt")
    run("audit", "score", "--data", "~/data", "--model", "~/model", *words)
    run("audit", "report", "~/audit", "--out", "~/page.html")
    run("audit", "select", "~/audit", "--dedup", "--out", "~/keep.parquet")
    run("audit", "apply", "~/keep.parquet", "--out", "~/clean")
    run("index", "--data", "~/data", "--held-out", "~/held", "--out", "~/index")
    (home / "a.png").write_bytes(picture(3))
    run("verify", "--index", "~/index", "--images", "~/a.png", "--threshold", "0.1", "--out", "~/verify")
    names = {"audit", "page.html", "keep.parquet", "clean", "index", "verify"}
    assert names <= {path.name for path in home.iterdir()}
    assert not list(Path.cwd().iterdir())
