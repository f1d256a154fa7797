"""The web page: the whole of it driven in a real browser, and what is said where it cannot be had."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from memsieve.inference.copies.index_build import build_index
from memsieve.inference.ui.inspect import MAX_CHARACTERS

HOSTILE = "<img src=x onerror=alert(1)> cat"


@pytest.fixture(scope="module")
def address(memorised: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`memsieve ui` in a process of its own, with an index."""
    pytest.importorskip("gradio", reason="the page needs the extra ui")
    folder = tmp_path_factory.mktemp("ui")
    memorised.pipe.save_pretrained(folder / "model", safe_serialization=True)
    (folder / "ordinary.txt").write_text("\n".join(memorised.ordinary), encoding="utf-8")
    for split, count in (("train", 6), ("held_out", 20)):
        (folder / split).mkdir()
        with webdataset.TarWriter(str(folder / split / "0.tar")) as tar:
            for i in range(count):
                pixels = np.random.default_rng(len(split) * 100 + i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
                tar.write({"__key__": f"{i:03d}", "png": pixels, "txt": f"<b>pair</b> {i}"})
    build_index(str(folder / "train"), folder / "index", held_out=str(folder / "held_out"), progress=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "memsieve", "ui", "--model", str(folder / "model"), "--port", str(port),
        "--ordinary", str(folder / "ordinary.txt"), "--false-positive-rate", "0.07", "--images-per-prompt", "1",
        "--index", str(folder / "index"),
    ]  # fmt: skip
    log = (folder / "log").open("w")
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 180
        while time.monotonic() < end and server.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail((folder / "log").read_text())
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)
        log.close()


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.mark.trains
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_a_browser(address: str, browser: Any, memorised: Any, tmp_path: Path) -> None:
    """Check, edit a word, draw, minimise; then a prompt that is HTML, and one that is empty."""
    shots = Path(os.environ.get("MEMSIEVE_SCREENSHOTS", tmp_path))
    page = browser.new_page(viewport={"width": 1200, "height": 1500})
    page.set_default_timeout(120_000)
    asked, dialogs = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(address)

    page.locator("#prompt textarea").wait_for()
    page.locator("#examples button", has_text=memorised.ordinary[0]).first.click()
    page.wait_for_function(
        "text => document.querySelector('#prompt textarea').value == text", arg=memorised.ordinary[0]
    )
    page.screenshot(path=shots / "ui-first.png", full_page=True)

    def fill(where: str, text: str) -> None:
        page.locator(f"{where} textarea").fill(text)

    def number(where: str) -> float:
        return float(page.locator(f"{where} .ms-score").inner_text())

    fill("#prompt", memorised.prompt)
    page.locator("#check").click()
    page.locator("#score .ms-word").first.wait_for()
    assert page.locator("#score .ms-notable").count() == 1, "nothing was drawn yet"
    assert [re.split(r"\s", text)[0] for text in page.locator("#score .ms-word").all_inner_texts()] == ["q", "x", "z"]
    colours = page.locator("#score .ms-word").evaluate_all("words => words.map(w => w.style.background)")
    assert len(set(colours)) > 1, "words differ in colour"
    assert page.locator("#edited textarea").input_value() == memorised.prompt

    fill("#edited", "red x z")
    page.locator("#compare").click()
    page.locator("#other .ms-word").first.wait_for()
    assert number("#other") < number("#score"), "without one of its words the prompt scores lower"
    assert page.locator("#score .ms-score").count() == 1, "the first score stays beside the second"
    page.screenshot(path=shots / "ui-edited.png", full_page=True)

    page.locator("#draw").click()
    page.locator("#right img").nth(1).wait_for()
    assert page.locator("#left img").count() >= 2
    page.locator("#nearest .ms-row").first.wait_for()
    assert page.locator("#nearest .ms-row img").count() == 8, "two images, each with three pairs"
    page.locator("#nearest_right .ms-row").first.wait_for()
    assert page.locator("#nearest_right .ms-row img").count() == 8, "and of the edited prompt as well"
    told = page.locator("#score .ms-verdict").inner_text()
    assert ("a copy" in page.locator("#nearest").inner_text()) == told.startswith("Memorised")
    assert told.startswith("Memorised") or "none of 2 drawings" in told
    assert "<b>pair</b>" in page.locator("#nearest").inner_text(), "captions of the training set stay text"
    page.locator("#minimise").click()
    page.locator("#other", has_text="Minimised").wait_for()
    page.wait_for_timeout(500)
    page.screenshot(path=shots / "ui-minimised.png", full_page=True)

    page.locator("#check").click()
    page.locator("#other .ms-word").first.wait_for(state="detached")
    assert page.locator("#left img").count() >= 2, "checked again, the prompt keeps its images"
    fill("#prompt", HOSTILE)
    page.locator("#check").click()
    page.locator("#score .ms-word", has_text="onerror").wait_for()
    assert "<img" in page.locator("#score").inner_text()
    assert page.locator("#score img").count() == 0 and not dialogs
    page.locator("#nearest .ms-row").first.wait_for(state="detached")
    assert page.locator("#left img").count() == 0, "images of another prompt are gone"
    assert "Minimised" not in page.locator("#other").inner_text()
    page.screenshot(path=shots / "ui-html.png", full_page=True)
    fill("#prompt", " ")
    page.locator("#check").click()
    page.get_by_text("the prompt is empty").first.wait_for()
    fill("#prompt", "a" * (MAX_CHARACTERS + 50))
    assert len(page.locator("#prompt textarea").input_value()) <= MAX_CHARACTERS + 50
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not elsewhere, f"the page asks elsewhere: {elsewhere[:5]}"
