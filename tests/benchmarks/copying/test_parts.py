"""What is left of rows, by file, by look, by the truth."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from benchmarks.copying.parts import clusters, first_of
from benchmarks.copying.samples import Row
from memsieve.filtering.data.rows import content_id


def test_first_of_keeps_the_first() -> None:
    rows = [Row(str(i % 2), "a", 1, b"", str(i), "", "") for i in range(4)]
    assert [row.caption for row in first_of(rows, lambda row: row.pair)] == ["0", "1"]
    assert [row.caption for row in first_of(rows, lambda row: row.caption)] == ["0", "1", "2", "3"]


def test_files_that_look_alike_are_one_cluster_and_others_are_not() -> None:
    smooth = np.kron(np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3)), np.ones((1, 16, 16, 1))).astype(np.uint8)
    files = []
    for picture in smooth:
        for quality in (95, 80):
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, "JPEG", quality=quality)
            files.append(stream.getvalue())
    found = clusters([Row("", "", 1, file, "", "", "") for file in files])
    names = [content_id(file) for file in files]
    assert found == {names[0]: names[0], names[1]: names[0], names[2]: names[2], names[3]: names[2]}
