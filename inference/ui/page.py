"""The web page of ``memsieve ui``: type a prompt, see its score and words, draw, edit, minimise, compare.

Needs the extra ``ui`` (Gradio). Nothing is loaded from elsewhere, and nothing is sent anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from html import escape
from typing import Any

from memsieve.filtering.extras import install
from memsieve.inference.ui.inspect import MAX_CHARACTERS, MAX_IMAGES, MAX_STEPS, MAX_UPDATES, Inspector
from memsieve.inference.ui.side import Side
from memsieve.inference.ui.turns import Turns

__all__ = ["build_page", "serve"]

WAITING = 16
"""Requests that may wait; the next ones are told that the page is busy."""
CSS = """
.ms-card, .ms-row { border: 1px solid #dcdcd6; border-left: 6px solid #7d8a94; border-radius: 8px; padding: 14px;
  background: #fff; color: #1c1f23; margin: 0 0 10px; }
.ms-bad { border-left-color: #c4471f; } .ms-notable { border-left-color: #d9a400; }
.ms-verdict { font-size: 1.1rem; margin: 0 0 8px; color: #1c1f23; font-weight: 600; }
.ms-verdict b, .ms-row b { color: #1c1f23; }
.ms-soft { color: #50565e; font-size: .88rem; margin: 6px 0; }
.ms-note { background: #fdf4dc; color: #6b4d00; border-radius: 6px; padding: 8px 12px; overflow-wrap: anywhere; }
.ms-bar { position: relative; height: 14px; background: #ecece7; border-radius: 7px; overflow: hidden; }
.ms-fill { position: absolute; inset: 0 auto 0 0; background: #7d8a94; }
.ms-bad .ms-fill { background: #c4471f; } .ms-notable .ms-fill { background: #d9a400; }
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
        left, right = gr.State(Side()), gr.State(Side())
        prompt = gr.Textbox(label="Prompt", lines=2, max_length=MAX_CHARACTERS, elem_id="prompt", autofocus=True)
        gr.Examples([[text] for text in inspector.examples()], [prompt], label="For example", elem_id="examples")
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
            with gr.Column():
                first = gr.Gallery(label="As it is", columns=2, interactive=False, elem_id="left")
                near_first = gr.HTML(elem_id="nearest")
            with gr.Column():
                second = gr.Gallery(label="Edited, or minimised", columns=2, interactive=False, elem_id="right")
                near_second = gr.HTML(elem_id="nearest_right")
        hidden: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "model", "concurrency_limit": 1}
        one, two = [left, score, first, near_first], [right, other, second, near_second]
        for event in (check.click, prompt.submit):
            event(handlers["check"], [prompt, left], [edited, *one, *two], **hidden)
        for event in (compare.click, edited.submit):
            event(handlers["compare"], [left, right, edited], two, **hidden)
        for button, name, asked in (
            (draw, "draw", [prompt, edited, left, count, steps]),
            (shrink, "minimise", [prompt, left, count, steps, updates]),
        ):  # fmt: skip
            button.click(handlers[name], asked, [*one, *two], show_progress_on=[first, second], **hidden)
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
    turns = Turns(inspector, gr.skip())
    shown = gr.Progress()  # as a default value it makes Gradio show a bar with the time left

    def guarded(work: Callable[..., Any], *args: Any) -> Any:
        try:
            return work(*args)
        except ValueError as error:
            raise gr.Error(escape(str(error)), print_exception=False) from None

    def reporter(progress: Any) -> Callable[[float, str], None]:
        return lambda share, what: progress(share, desc=what)

    def check(prompt: str, left: Side, progress: Any = shown) -> tuple[Any, ...]:
        progress(0.1, desc="measuring")
        text, one, two = guarded(turns.check, prompt, left)
        return text, *one, *two

    def compare(left: Side, right: Side, edited: str, progress: Any = shown) -> tuple[Any, ...]:
        progress(0.1, desc="measuring")
        return tuple(guarded(turns.compare, left, right, edited))

    def draw(
        prompt: str, edited: str, left: Side, count: float, steps: float, progress: Any = shown
    ) -> tuple[Any, ...]:
        one, two = guarded(turns.draw, prompt, edited, left, count, steps, reporter(progress))
        return *one, *two

    def minimise(
        prompt: str, left: Side, count: float, steps: float, updates: float, progress: Any = shown
    ) -> tuple[Any, ...]:
        one, two = guarded(turns.minimise, prompt, left, count, steps, updates, reporter(progress))
        return *one, *two

    return {"check": check, "compare": compare, "draw": draw, "minimise": minimise}


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError:
        raise ValueError(f"the page needs gradio, which is not installed: {install('ui')}") from None
    return gradio
