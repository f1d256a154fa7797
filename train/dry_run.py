"""A rehearsal: everything is built and one window is scored, nothing is trained or kept."""

from __future__ import annotations

import os
import shutil

from memsieve.train.config import RunConfig

__all__ = ["dry_run"]


def dry_run(config: RunConfig) -> str:
    """Build the whole run in a folder that goes away, read one window, measure it; the result in words.

    Raises:
        ValueError: whatever would stop the real run at its start.
    """
    from memsieve.train.batch import build_batch
    from memsieve.train.draw_settings import DrawSettings
    from memsieve.train.memory import memory_of
    from memsieve.train.set_up import set_up
    from memsieve.train.visits import draw_visits, plain_samples

    trial = config.model_copy(deep=True)
    trial.output = config.output.parent / f".{config.output.name}-dry-run"  # one folder, which all ranks must see
    trial.tracking.report_to = []
    trial.train.cache = None  # a rehearsal encodes one window, not the data
    try:
        session = set_up(trial)
        window = next(iter(session.loader))
        rows = window.rows[: trial.train.batch_size]
        known, settings = session.looked_up, DrawSettings(trial.train.seed, trial.data.resolution)
        audited = None
        if known is not None:
            latent = session.denoiser.latent_shape(*(window.shape or (trial.data.resolution,)))
            audited = [(0, known.draw(row.group, 0, latent)) if row is not None else None for row in rows]
        visits = draw_visits(session.denoiser, plain_samples(rows, settings, shape=window.shape), settings, audited)
        batch = build_batch(session.denoiser, visits)
        lines = [
            f"{session.total_steps} steps of {trial.train.batch_size} x {trial.train.accumulation} x "
            f"{session.exchange.world_size} samples, {session.loader.n_streams} streams, "
            f"{len(session.held_out)} held-out pairs"
        ]
        if session.scorer is not None:
            measured = session.scorer.measure(batch)
            lines += [f"{name}: median {value.median():.4g}" for name, value in measured.signals.items()]
        lines.append(_memory(memory_of(session)))
        lines.append(f"engine: {session.engine}, {session.exchange.world_size} rank(s)")
        session.exchange.sum([0.0])  # nobody needs the folder any more
        session.watch.close()
    finally:
        if os.environ.get("RANK", "0") == "0":
            shutil.rmtree(trial.output, ignore_errors=True)
    return "\n".join(lines)


def _memory(parts: dict[str, int]) -> str:
    """For a person: the sum, and what it is made of."""
    named = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in parts.items() if value)
    return f"memory a rank, without activations: {sum(parts.values()) / 1e9:.2f} GB ({named})"
