"""Measurements on disk are those that were made, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from memsieve.inference.detect.detectors import PromptMeasurement
from memsieve.inference.detect.kept import measurements_on_disk


def test_what_was_kept_is_known_again(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    rng = np.random.default_rng(0)
    made = [
        PromptMeasurement("a <b>", {"drift": rng.normal(size=(2, 3))}, rng.normal(size=2), 0.5),
        PromptMeasurement("ä", {"drift": rng.normal(size=(1, 3))}, None, 0.25),
    ]
    with measurements_on_disk(file, {"seed": 0}, resume=True) as store:
        assert store.known == {}
        for one in made:
            store.keep(one)
    with file.open("a") as stream:
        stream.write('{"prompt": "cut off')
    with measurements_on_disk(file, {"seed": 0}, resume=True) as store:
        assert list(store.known) == ["a <b>", "ä"]
        for one in made:
            again = store.known[one.prompt]
            assert np.array_equal(again.per_step["drift"], one.per_step["drift"]) and again.seconds == one.seconds
            assert (again.cosine is None) == (one.cosine is None)
            assert one.cosine is None or (again.cosine is not None and np.array_equal(again.cosine, one.cosine))
    with pytest.raises(ValueError, match="another seed"), measurements_on_disk(file, {"seed": 1}, resume=True):
        pass
    with measurements_on_disk(file, {"seed": 1}, resume=False) as store:
        assert store.known == {}, "begun anew"


def test_measurements_of_version_0_1_are_the_magnitude(tmp_path: Path) -> None:
    file = tmp_path / "m.jsonl"
    file.write_text('{"seed": 0}\n{"prompt": "a", "magnitudes": [[1.0, 2.0]], "cosine": null, "seconds": 0.5}\n')
    with measurements_on_disk(file, {"seed": 0}, resume=True) as store:
        assert store.known["a"].magnitudes.tolist() == [[1.0, 2.0]]
