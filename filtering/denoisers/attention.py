"""Which of torch's attention kernels gradients are taken through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["leave_out_cudnn", "without_cudnn"]


def leave_out_cudnn() -> None:
    """From now on no attention of this process runs in cuDNN's kernel.

    torch takes it by default on Hopper GPUs in half precision, and its backward pass gives NaN or ends in
    CUBLAS_STATUS_EXECUTION_FAILED for many shapes, Flux's among them (torch 2.11 with cuDNN 9.19 on an H200;
    github.com/pytorch/pytorch/issues/196678). The flash and the memory-efficient kernel take over.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


@contextmanager
def without_cudnn() -> Iterator[None]:
    """``leave_out_cudnn`` for a while, in somebody else's process. The forward pass chooses the backward's kernel."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    leave_out_cudnn()
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
