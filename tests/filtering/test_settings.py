"""Strict settings: what is refused, what the message says, and how overrides are read."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError, field_validator

from memsieve.filtering.audit.config import AuditRun
from memsieve.filtering.settings import (
    LocalPath,
    PathText,
    PathTexts,
    Settings,
    SettingsError,
    apply_overrides,
    expand_home,
    load_settings,
    parse_settings,
    read_settings,
)


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


def test_settings_that_are_missing_are_named() -> None:
    with pytest.raises(SettingsError, match=r"^config: 'data' is not given; 'output' is not given$"):
        parse_settings(AuditRun, {"model": None})
    with pytest.raises(SettingsError, match=r"'data\.path' is not given"):
        parse_settings(AuditRun, {"model": None, "output": "run", "data": {}})


def test_a_section_in_place_of_a_value_is_named() -> None:
    with pytest.raises(SettingsError, match=r"'seed' = {'low': 1}: .*; 'optimizer\.betas' = {}: "):
        parse_settings(Run, {"seed": {"low": 1}, "optimizer": {"betas": {}}})


@pytest.mark.parametrize("text", ["[0.9, 0.95", "@name", "'open"])
def test_an_override_that_is_no_yaml_is_refused_and_quotes_help(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--set 'key=.*': the value is not valid YAML; put a text in quotes"):
        apply_overrides({}, [f"key={text}"])
    assert apply_overrides({}, [f'key="{text}"']) == {"key": text}


def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "picture.yaml").write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(SettingsError, match=r"picture\.yaml' is not valid YAML"):
        read_settings(tmp_path / "picture.yaml")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


class Paths(Settings):
    folder: LocalPath = Path("out")
    model: PathText | None = None
    shards: PathTexts = "a.tar"


def test_a_tilde_in_front_is_the_home_in_every_kind_of_path(home: Path) -> None:
    found = parse_settings(Paths, {"folder": "~/out", "model": "~/m", "shards": ["~/a.tar", "b/~/c.tar"]})
    assert found.folder == home / "out" and found.model == f"{home}/m"
    assert found.shards == [f"{home}/a.tar", "b/~/c.tar"]
    assert Paths(folder=Path("~/out")).folder == home / "out"
    found.folder = Path("~/later")
    assert found.folder == home / "later" and expand_home("~") == str(home)


@pytest.mark.parametrize("value", ["~nobody-of-that-name/x", ["a", "~nobody-of-that-name/x"]])
def test_a_home_that_nobody_knows_is_refused_with_the_setting(value: str | list[str]) -> None:
    with pytest.raises(SettingsError, match=r"'shards' = .*no home folder is known for '~nobody-of-that-name' of"):
        parse_settings(Paths, {"shards": value})


def test_the_file_of_settings_may_lie_in_a_home_too(home: Path) -> None:
    write(home, "seed: 5\n")
    assert load_settings(Run, "~/config.yaml").seed == 5
    with pytest.raises(SettingsError, match=r"^config file: no home folder is known for '~nobody-of-that-name'"):
        load_settings(Run, "~nobody-of-that-name/config.yaml")


@pytest.mark.parametrize("value", ["stabilityai/sdxl", "s3://bucket/~/x.tar", "runs/~x", "frozen", "/a/~/b"])
def test_names_urls_and_tildes_elsewhere_stay(value: str) -> None:
    assert expand_home(value) == value


def test_joined_shards_are_expanded_each(home: Path) -> None:
    raw = {"output": "~/run", "model": None, "data": {"path": "~/a.tar::/b.tar::~/c.tar"}}
    assert parse_settings(AuditRun, raw).data.path == f"{home}/a.tar::/b.tar::{home}/c.tar"
