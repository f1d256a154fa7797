"""Strict settings: what is refused, what the message says, and how overrides are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError, field_validator

from memsieve.filtering.settings import Settings, SettingsError, apply_overrides, load_settings, parse_settings


class Optimizer(Settings):
    learning_rate: float = Field(default=1e-4, gt=0)
    betas: list[float] = [0.9, 0.999]
    name: str = "adamw"

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in {"adamw", "sgd"}:
            raise ValueError("choose adamw or sgd")
        return value


class Run(Settings):
    seed: int = 0
    resume: bool = False
    note: str | None = None
    optimizer: Optimizer = Optimizer()
    extra: Optimizer | None = None


def write(folder: Path, text: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_file_and_nested_overrides(tmp_path: Path) -> None:
    file = write(tmp_path, "seed: 3\noptimizer:\n  learning_rate: 0.5\n  name: sgd\n")
    run = load_settings(Run, file, ["optimizer.learning_rate=1e-4", "resume=true"])
    assert run.seed == 3
    assert run.resume is True
    assert run.optimizer.learning_rate == pytest.approx(1e-4)
    assert run.optimizer.name == "sgd"


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_settings(Run, write(tmp_path, "")) == Run()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml' does not exist"):
        load_settings(Run, tmp_path / "nowhere.yaml")


def test_folder_is_no_config_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(Run, tmp_path)


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "list"), ("hello\n", "str"), ("3\n", "int")])
def test_file_that_holds_no_mapping(tmp_path: Path, text: str, kind: str) -> None:
    with pytest.raises(SettingsError, match=f"must hold a mapping of sections, not a {kind}"):
        load_settings(Run, write(tmp_path, text))


def test_broken_yaml(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not valid YAML"):
        load_settings(Run, write(tmp_path, "seed: [1, 2\n"))


def test_unknown_key_gets_a_suggestion() -> None:
    with pytest.raises(SettingsError, match="unknown key 'sed'; did you mean 'seed'"):
        parse_settings(Run, {"sed": 1})


@pytest.mark.parametrize("section", ["optimizer", "extra"])
def test_unknown_nested_key_gets_a_suggestion_from_its_section(section: str) -> None:
    with pytest.raises(SettingsError, match=rf"'{section}\.learning_rat'; did you mean 'learning_rate'"):
        parse_settings(Run, {section: {"learning_rat": 1}})


def test_unknown_key_like_no_other_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="known keys: extra, note, optimizer, resume, seed"):
        parse_settings(Run, {"zzzzzzzz": 1})


def test_every_fault_is_reported_with_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "seed: many\noptimizer: {learning_rate: -1, name: lion}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(Run, file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "'seed' = 'many'" in message
    assert "'optimizer.learning_rate' = -1" in message
    assert "'optimizer.name' = 'lion': choose adamw or sgd" in message


def test_section_given_as_a_value() -> None:
    with pytest.raises(SettingsError, match="'optimizer' = 5"):
        parse_settings(Run, {"optimizer": 5})


def test_assignment_is_checked() -> None:
    run = Run()
    with pytest.raises(ValidationError):
        run.seed = "many"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5e3", 1500.0),
        ("-2E-1", -0.2),
        ("7", 7),
        ("0.25", 0.25),
        ("true", True),
        ("null", None),
        ("", None),
        ("word", "word"),
        ("a=b", "a=b"),
        ("[0.9, 0.95]", [0.9, 0.95]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_override_values(text: str, value: object) -> None:
    got = apply_overrides({}, [f"key={text}"])["key"]
    assert got == value
    assert type(got) is type(value)


def test_overrides_make_sections_and_keep_their_neighbours() -> None:
    raw = {"a": {"x": 1}, "empty": None}
    assert apply_overrides(raw, ["a.y=2", "b.c.d=3", "empty.z=4", "a.y=5"]) == {
        "a": {"x": 1, "y": 5},
        "b": {"c": {"d": 3}},
        "empty": {"z": 4},
    }


@pytest.mark.parametrize("override", ["seed", "=3", " =3"])
def test_override_without_key_or_value(override: str) -> None:
    with pytest.raises(SettingsError, match=r"must look like section\.key=value"):
        apply_overrides({}, [override])


def test_override_below_a_value() -> None:
    with pytest.raises(SettingsError, match="'seed' holds a value, not a section"):
        apply_overrides({"seed": 3}, ["seed.low=1"])


def test_unknown_key_in_an_override(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'optimizer\.lerning_rate'; did you mean 'learning_rate'"):
        load_settings(Run, write(tmp_path, "seed: 1"), ["optimizer.lerning_rate=1"])
