"""Which model of a run to use, and why: the last words of a training."""

from __future__ import annotations

from typing import Any

from memsieve.train.session import Session

__all__ = ["advice"]


def advice(session: Session) -> dict[str, Any] | None:
    """``folder`` in the run's folder, ``step`` and ``why``, a sentence; None where the run did not look.

    The best model is advised where the last one overfits or copies, the last one elsewhere. The same on all ranks.
    """
    watch, recall = session.overfits, session.recall
    if not watch.looks or (recall is None and watch.best is None):
        return None
    last = "lora" if session.config.model.lora is not None else "pipeline"
    if not session.config.checkpoint.export:
        last = f"checkpoints/step-{session.step:08d}"
    ills = []
    if watch.overfits:
        ills.append(f"the last step overfits ({watch.said})")
    if recall is not None and recall.rule.copies:
        back = len(recall.rule.condemned)
        ills.append(f"{back} of {len(recall.rule.evidence.groups)} pairs have come back as their own picture")
    if not ills:
        return {"folder": last, "step": session.step, "why": _well(session)}
    if session.best < 0:
        why = "; ".join(ills)
        return {"folder": None, "step": None, "why": f"{why}; no step before was kept. {_remedy(session)}"}
    return {"folder": "best", "step": session.best, "why": f"{'; '.join(ills)}. {_best(session)}"}


def _well(session: Session) -> str:
    watch, found = session.overfits, []
    if watch.best is None:
        found.append("whether it overfits nobody knows, since no pair is held out")
    else:
        found.append("held-out loss has not turned, and no gap has opened")
    if session.recall is not None:
        found.append("no pair comes back beyond chance")
    return ", and ".join(found)


def _best(session: Session) -> str:
    best = session.overfits.best_trained
    if best is None or best.step != session.best:
        return f"Step {session.best} is the last that was looked at before pairs came back"
    base = session.overfits.base
    text = f"At step {best.step} held-out loss was {best.held_out:.4g}, the lowest in training"
    if base is not None and base.held_out <= best.held_out:
        text += f", though above the {base.held_out:.4g} before the first step: {_remedy(session)}"
    return text


def _remedy(session: Session) -> str:
    steps = session.overfits.since
    shorter = f"fewer steps than {steps}, " if steps > 0 else ""
    return f"train anew with {shorter}a lower optimizer.lr or a smaller model.lora.rank"
