"""The web page of ``memsieve ui``: type a prompt, see its score and words, draw, edit, minimise, compare.

Needs the extra ``ui`` (Gradio). Nothing is loaded from elsewhere, and nothing is sent anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape
from typing import Any

from memsieve.inference.ui.inspect import MAX_CHARACTERS, MAX_IMAGES, MAX_STEPS, MAX_UPDATES, Inspector, pictures

__all__ = ["build_page", "serve"]

WAITING = 16
"""Requests that may wait; the next ones are told that the page is busy."""
CSS = """
.ms-card, .ms-row { border: 1px solid #dcdcd6; border-left: 6px solid #7d8a94; border-radius: 8px; padding: 14px;
  background: #fff; color: #1c1f23; margin: 0 0 10px; }
.ms-flagged { border-left-color: #c4471f; }
.ms-verdict { font-size: 1.1rem; margin: 0 0 8px; color: #1c1f23; }
.ms-verdict b, .ms-row b { color: #1c1f23; }
.ms-soft { color: #50565e; font-size: .88rem; margin: 6px 0; }
.ms-note { background: #fdf4dc; color: #6b4d00; border-radius: 6px; padding: 8px 12px; overflow-wrap: anywhere; }
.ms-bar { position: relative; height: 14px; background: #ecece7; border-radius: 7px; overflow: hidden; }
.ms-fill { position: absolute; inset: 0 auto 0 0; background: #7d8a94; }
.ms-flagged .ms-fill { background: #c4471f; }
.ms-mark { position: absolute; top: 0; bottom: 0; width: 2px; background: #1c1f23; }
.ms-limit { width: 4px; }
.ms-words { line-height: 2.6; overflow-wrap: anywhere; }
.ms-word { display: inline-block; padding: 2px 8px; margin: 0 3px; border: 1px solid #dcdcd6; border-radius: 6px;
  line-height: 1.3; color: #1c1f23; max-width: 100%; vertical-align: top; }
.ms-word small { display: block; font-size: .7rem; color: #3c4148; }
.ms-row { display: flex; gap: 14px; flex-wrap: wrap; }
.ms-row figure { margin: 0; width: 140px; } .ms-row figcaption { font-size: .8rem; overflow-wrap: anywhere; }
.ms-row img { width: 128px; height: 128px; border: 1px solid #dcdcd6; border-radius: 6px; }
"""


def build_page(inspector: Inspector, name: str) -> Any:
    """The page as ``gradio.Blocks``, its requests queued one after another.

    Raises:
        ValueError: gradio is not installed.
    """
    gr = _gradio()
    handlers = _handlers(gr, inspector)
    with gr.Blocks(analytics_enabled=False, title="memsieve ui", fill_width=False) as page:
        gr.HTML(f"<h1>Is this prompt memorised?</h1><p class='ms-soft'>{escape(name)}</p>")
        checked, drawn = gr.State(("", 0.0)), gr.State("")
        prompt = gr.Textbox(label="Prompt", lines=2, max_length=MAX_CHARACTERS, elem_id="prompt", autofocus=True)
        check = gr.Button("Check", variant="primary", elem_id="check")
        with gr.Row():
            with gr.Column():
                score = gr.HTML(elem_id="score")
            with gr.Column():
                edited = gr.Textbox(label="Edit the words", lines=2, max_length=MAX_CHARACTERS, elem_id="edited")
                compare = gr.Button("Score the edited prompt", elem_id="compare")
                other = gr.HTML(elem_id="other")
        with gr.Row():
            count = gr.Slider(1, MAX_IMAGES, 2, step=1, label="Images")
            steps = gr.Slider(1, MAX_STEPS, 20, step=1, label="Sampling steps")
            updates = gr.Slider(1, MAX_UPDATES, 30, step=1, label="Updates at most")
        with gr.Row():
            draw = gr.Button("Draw both prompts", elem_id="draw")
            shrink = gr.Button("Minimise and compare", elem_id="minimise")
        with gr.Row():
            left = gr.Gallery(label="As it is", columns=2, interactive=False, elem_id="left")
            right = gr.Gallery(label="Edited, or minimised", columns=2, interactive=False, elem_id="right")
        said = gr.HTML(elem_id="said")
        near = gr.HTML(elem_id="nearest")
        hidden: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
        pictured = [left, right, said, near]
        for event in (check.click, prompt.submit):
            event(handlers["check"], [prompt, drawn], [checked, score, edited, other, *pictured], **hidden)
        for event in (compare.click, edited.submit):
            event(handlers["compare"], [checked, edited], [other], **hidden)
        for button, name, asked in (
            (draw, "draw", [prompt, edited, count, steps]), (shrink, "minimise", [prompt, count, steps, updates]),
        ):  # fmt: skip
            button.click(handlers[name], asked, [drawn, *pictured], show_progress_on=[left, right], **hidden)
    return page.queue(max_size=WAITING, default_concurrency_limit=1)


def serve(page: Any, *, host: str = "127.0.0.1", port: int | None = None, wait: bool = True) -> str:
    """Serve ``page``; returns its address at once where ``wait`` is off, and else when the server ends."""
    gr = _gradio()
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # its default asks Google's fonts
    _, address, _ = page.launch(
        server_name=host, server_port=port, share=False, prevent_thread_lock=True, quiet=True, theme=theme, css=CSS,
        max_file_size="1mb", footer_links=[], enable_monitoring=False, ssr_mode=False,
    )  # fmt: skip
    if wait:
        page.block_thread()
    return str(address)


def _handlers(gr: Any, inspector: Inspector) -> dict[str, Callable[..., Any]]:
    """What the buttons do. A wrong input becomes a message, escaped, since Gradio shows messages as HTML."""

    shown = gr.Progress()  # as a default value it makes Gradio show a bar with the time left

    def guarded(work: Callable[..., Any], *args: Any) -> Any:
        try:
            return work(*args)
        except ValueError as error:
            raise gr.Error(escape(str(error)), print_exception=False) from None

    def reporter(progress: Any) -> Callable[[float, str], None]:
        return lambda share, what: progress(share, desc=what)

    def check(prompt: str, drawn: str, progress: Any = shown) -> tuple[Any, ...]:
        progress(0.1, desc="measuring")
        found = guarded(inspector.inspect, prompt)
        # Images of another prompt must not stand below this one's score.
        pictured = [gr.skip()] * 4 if drawn == found.prompt else [[], [], "", ""]
        return (found.prompt, found.score), inspector.card(found), found.prompt, "", *pictured

    def compare(checked: tuple[str, float], edited: str, progress: Any = shown) -> str:
        progress(0.1, desc="measuring")
        return inspector.card(guarded(inspector.inspect, edited, checked[0] or None), checked[1])

    def draw(prompt: str, edited: str, count: float, steps: float, progress: Any = shown) -> tuple[Any, ...]:
        report = reporter(progress)
        first = guarded(inspector.draw, prompt, count, steps, report)
        second = None
        if edited.strip() and edited.strip() != prompt.strip():
            second = guarded(inspector.draw, edited, count, steps, report, prompt.strip())
        said = "" if second is None else "<p class='ms-soft'>Both from the same noise.</p>"
        others = [] if second is None else pictures(second)
        return prompt.strip(), pictures(first), others, said, guarded(inspector.nearest, first)

    def minimise(prompt: str, count: float, steps: float, updates: float, progress: Any = shown) -> Any:
        result, before, after = guarded(inspector.minimise, prompt, count, steps, updates, reporter(progress))
        rows = [
            f"image {i + 1}: {result.trace[0][i]:.4g} to {value:.4g}{'' if met else ' (target not met)'}"
            for i, (value, met) in enumerate(zip(result.magnitude, result.met, strict=True))
        ]
        said = f"<p class='ms-soft'>Magnitude, at most {result.targets[0]:.4g} wanted: {'; '.join(rows)}.</p>"
        return prompt.strip(), pictures(before), pictures(after), said, guarded(inspector.nearest, before)

    return {"check": check, "compare": compare, "draw": draw, "minimise": minimise}


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise ValueError("the page needs gradio, which is not installed: pip install 'memsieve[ui]'") from None
    return gradio
