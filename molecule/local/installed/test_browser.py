"""A person opens the page in a real browser, signs in, asks, sees the answer come in, reloads, and finds the chat kept."""

from __future__ import annotations

import local
import pytest
from playwright.sync_api import Error, expect, sync_playwright

testinfra_hosts = ["local://"]
QUESTION = "Hello, who are you?"
ANSWER = 'My name is "smoke": I am a smoke model, a very small language model'


@pytest.fixture(scope="module")
def page():
    """The page, signed in. As root a Chromium wants no sandbox, and without the other words it looks for the internet."""
    quiet = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=local.browser_path(), args=quiet)
        except Error as exc:
            pytest.fail(f"{local.NO_BROWSER}\n{exc}", pytrace=False)
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.frames_received = []
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: page.frames_received.append(str(frame))))
        page.set_default_timeout(60_000)
        page.goto(local.url("open-webui").replace("127.0.0.1", "localhost"))
        page.fill("input[type=email]", "admin@localhost")
        page.fill("input[type=password]", local.secret("open-webui", "WEBUI_ADMIN_PASSWORD"))
        page.keyboard.press("Enter")
        page.wait_for_selector("#chat-input")
        yield page
        browser.close()


def test_the_model_is_chosen_and_nothing_stands_in_the_way(page):
    expect(page.get_by_role("button", name="Selected model: smoke").first).to_be_visible()
    assert page.locator("[role=dialog]:visible").count() == 0


def test_an_answer_comes_in_word_by_word_and_is_there_after_a_reload(page):
    page.frames_received.clear()
    page.click("#chat-input")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    answer = page.locator(".chat-assistant")
    expect(answer).to_contain_text(ANSWER, timeout=60_000)
    pieces = [frame for frame in page.frames_received if '"response.output_text.delta"' in frame]
    assert len(pieces) > 10, f"the answer came in {len(pieces)} pieces: {page.frames_received}"
    page.wait_for_url("**/c/*")
    page.reload()
    expect(page.locator(".chat-user")).to_contain_text(QUESTION)
    expect(answer).to_contain_text(ANSWER)
    local.ARTEFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=local.ARTEFACTS / "chat.png")
