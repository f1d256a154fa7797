"""What a command that was stopped finds again: rows, images, and the settings that they are of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from memsieve.filtering.files import read_json_lines
from memsieve.inference.generate import GenerateSettings, load_pipeline
from memsieve.inference.resume import ImageStore, append_rows, generate_kept, refuse_other_settings

TINY = Path(__file__).resolve().parents[2] / "assets" / "tiny-sd"


def test_rows_are_flushed_one_by_one(tmp_path: Path) -> None:
    for number in range(2):
        with append_rows(tmp_path / "r.jsonl") as write:
            write({"number": number})
            assert [row["number"] for row in read_json_lines(tmp_path / "r.jsonl")] == list(range(number + 1))
    with append_rows(tmp_path / "r.jsonl") as write, pytest.raises(ValueError, match="JSON compliant"):
        write({"number": float("nan")})


def test_other_settings_are_named() -> None:
    refuse_other_settings({"seed": 0, "steps": [1, 2], "old": 1}, {"seed": 0, "steps": (1, 2)}, Path("x"))
    with pytest.raises(ValueError, match=r"--resume: 'x' was begun with another seed, steps; ask the same"):
        refuse_other_settings({"seed": 0}, {"seed": 1, "steps": 2, "path": None}, Path("x"))


def test_a_store_gives_back_what_it_said(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "s", {"seed": 0}, resume=False)
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    kept = store.save("a/b", images)
    again = ImageStore(tmp_path / "s", {"seed": 0}, resume=True).load("a/b")
    assert again is not None and torch.equal(again, kept) and (kept - images).abs().max() <= 0.51 / 127.5
    with pytest.raises(ValueError, match="begun with another seed"):
        ImageStore(tmp_path / "s", {"seed": 1}, resume=True)
    assert ImageStore(tmp_path / "s", {"seed": 1}, resume=False).load("a/b") is None, "begun anew"


def test_a_part_of_a_list_is_drawn_as_in_the_whole(tmp_path: Path) -> None:
    pipe = load_pipeline(TINY)
    prompts = ["red apple", "green tree", "red apple"]
    settings = GenerateSettings(steps=2)
    whole = generate_kept(pipe, prompts, 1, ImageStore(tmp_path / "a", {}, False), settings, progress=False)
    store = ImageStore(tmp_path / "b", {}, False)
    alone = generate_kept(pipe, prompts, 1, store, GenerateSettings(steps=2, batch=1), progress=False)
    assert (whole - alone).abs().max() <= 1.01 / 127.5 and not torch.equal(whole[0], whole[2])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="holds no images of this command"):
        ImageStore(tmp_path / "c", {}, False)
