"""``memsieve ui``: the web page of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memsieve.cli.common import (
    BaseModel,
    Device,
    Dtype,
    Guidance,
    Model,
    Scheduler,
    Seed,
    base_for,
    open_for,
    ordinary_for,
    out_console,
    warn,
)

__all__ = ["ui"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def ui(
    model: Model,
    base: BaseModel = None,
    ordinary: Annotated[Path | None, typer.Option(help="Ordinary prompts; the shipped list if left out.")] = None,
    index: Annotated[Path | None, typer.Option(help="What `memsieve index` wrote, for the nearest images.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port; the first free one from 7860 if left out.")] = None,
    false_positive_rate: Annotated[float, typer.Option(help="Share of ordinary prompts that may be flagged.")] = 0.01,
    images_per_prompt: Annotated[int, typer.Option(help="Initial noises, averaged.")] = 4,
    guidance_scale: Guidance = 7.5,
    scheduler: Scheduler = "auto",
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "float32",
) -> None:
    """A web page: score a prompt, see its words, draw, edit, minimise and compare. Ctrl-C ends it."""
    from memsieve.inference.detect.detectors import DetectSettings
    from memsieve.inference.ui.inspect import Inspector
    from memsieve.inference.ui.page import build_page, serve

    known = ordinary_for(ordinary)
    settings = DetectSettings(images_per_prompt=images_per_prompt, guidance_scale=guidance_scale, seed=seed)
    opened = open_for(model, scheduler, device, dtype, base_for(model, base))
    inspector = Inspector(opened, known, settings=settings, false_positive_rate=false_positive_rate, index=index)
    page = build_page(inspector, str(model))
    if host not in LOOPBACK:
        warn(f"--host = '{host}': whoever reaches this address can use the page; it asks for no password")
    try:
        address = serve(page, host=host, port=port, wait=False)
    except OSError as error:
        raise ValueError(f"--port, --host: the page cannot be served there: {error}") from None
    out_console.print(f"the page is at {address} (Ctrl-C ends it)", markup=False, highlight=False, soft_wrap=True)
    try:
        page.block_thread()
    finally:
        page.close(verbose=False)
