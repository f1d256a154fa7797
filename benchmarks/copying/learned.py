"""Which caption does a drawing show? Asked of an image-text encoder that knows all of OpenMoji, and no drawing.

    python -m benchmarks.copying.learned        trains assets/openmoji-judge anew, 15 minutes on a core

It says what was learned: a model that has taken in the new style draws what is recognised among OpenMoji's captions,
for captions that it was not trained on. The same encoder compares pictures by what they show, where the other judges
compare pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.common import ROOT
from benchmarks.copying.samples import image_of
from benchmarks.retrieval.choice import candidates_of, chosen, small
from benchmarks.retrieval.encoder import SIDE, Encoder, train_encoder
from memsieve.filtering.data.openmoji import draw_pictures
from memsieve.filtering.data.openmoji.names import list_emoji, miniature

__all__ = ["JUDGE", "EncoderSimilarity", "encoder_at", "recognised"]

EPOCHS: Final = 40


JUDGE: Final = ROOT / "assets" / "openmoji-judge" / "encoder.safetensors"
"""Trained once, so that cells made on different days are judged by the same eyes."""


def encoder_at(file: Path = JUDGE, limit: int | None = None, epochs: int = EPOCHS) -> Encoder:
    """The encoder kept in ``file``, trained there first where it is missing; a quarter of an hour on a core.

    Args:
        file: its weights, safetensors.
        limit: draw at most so many pictures, for tests.
        epochs: of its training.
    """
    encoder = Encoder()
    if not file.is_file():
        pictures, _ = draw_pictures(miniature(list_emoji(), 0, limit), 2 * SIDE, True, None)
        images = small(torch.stack([_floats(image_of(picture.png)) for picture in pictures]))
        encoder = train_encoder(images, [picture.caption for picture in pictures], epochs=epochs)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.new")
        save_file(encoder.state_dict(), unfinished)
        unfinished.replace(file)
    encoder.load_state_dict(load_file(file))
    return encoder.eval()


def recognised(
    encoder: Encoder, drawn: Tensor, captions: Sequence[str], things: Sequence[str], seed: int
) -> list[float]:
    """Share of each caption's drawings for which the right one of twenty captions is chosen, [P].

    Args:
        encoder: is asked.
        drawn: [P, K, 3, H, W] in [-1, 1].
        captions: of the drawings, [P].
        things: what each shows, [P]: another caption of the same thing is no candidate.
        seed: of the candidates.
    """
    among = candidates_of(things, seed)
    each = [chosen([encoder], drawn[:, k], captions, among) for k in range(drawn.shape[1])]
    return [float(share) for share in torch.stack(each).double().mean(0)]


class EncoderSimilarity:
    """Pictures are as far apart as what the encoder says that they show (see ``Similarity``)."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Embeddings [N, 128] of images [N, 3, H, W] in [-1, 1]."""
        return torch.cat([self.encoder.embed_images(small(part)) for part in images.split(256)])

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """1 less the cosine, [N, M]."""
        return 1.0 - a @ b.T


def _floats(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1


if __name__ == "__main__":
    JUDGE.unlink(missing_ok=True)
    encoder_at()
