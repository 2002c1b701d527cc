"""The page in a real browser, with real clicks and keys: at a desk's and at a phone's width, light and dark."""

import shutil
import socket
import threading
import time

import pytest
import uvicorn
from PIL import Image
from served import tiny_app

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine: the playground was NOT tested"),
]


@pytest.fixture(scope="module")
def address():
    app, _ = tiny_app(keys=["secret"], limits={"max_pixels": 3_000_000, "max_picture_bytes": 9_000_000,
                                               "max_body_bytes": 12_000_000})  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(60)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture
def page(browser, address, request):
    options = {"viewport": {"width": 1100, "height": 900}, **getattr(request, "param", {})}
    context = browser.new_context(**options)
    found = context.new_page()
    found.set_default_timeout(60_000)
    troubles, asked = [], []

    def note(message):
        if message.type in ("error", "warning") and not message.text.startswith("Canvas2D"):  # the tests read pixels
            troubles.append(message.text)

    found.on("console", note)
    found.on("pageerror", lambda error: troubles.append(str(error)))
    found.on("request", lambda sent: asked.append(sent.url))
    found.goto(address)
    found.troubles = troubles
    yield found
    foreign = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert foreign == []  # nothing is asked of anybody but the server
    context.close()


def until(page, check):
    """Playwright's own waiting evaluates inside the page, which the page's policy forbids."""
    deadline = time.monotonic() + 60
    while not page.evaluate(check):
        assert time.monotonic() < deadline, check
        page.wait_for_timeout(30)


def give_key(page):
    page.get_by_text("Settings").click()
    page.fill("#key", "secret")
    page.press("#key", "Tab")
    until(page, "document.getElementById('model').textContent === 'tiny'")
    page.troubles.clear()  # the browser logs the 401 of the first, keyless, look


def answered(page):
    until(page, "!document.getElementById('ask').disabled")
    assert page.locator("#error").is_hidden(), page.text_content("#error")


def test_a_question_with_the_mouse(page):
    assert "API key" in page.text_content("#error")
    give_key(page)
    assert page.locator("#policy option").all_text_contents() == ["exit", "fastv", "off (no policy)"]
    page.click("#example")
    page.locator("#preview").wait_for()
    page.fill("#question", "what is it?")
    page.click("#ask")
    answered(page)
    assert page.text_content("#with-answer")
    assert page.text_content("#without-answer")
    assert page.text_content("#verdict") == "Looked away before layer 2 of 4"
    cells = [row.locator("td").all_text_contents() for row in page.locator("#rows tr").all()]
    assert cells[1] == ["2", "never"]
    assert cells[2][0] != "100 %"
    assert cells[2][1] == "100 %"
    assert page.troubles == []


def test_the_slider_fades_what_left(page):
    give_key(page)
    page.click("#example")
    page.locator("#preview").wait_for()
    page.select_option("#policy", "fastv")
    page.uncheck("#compare")
    page.click("#ask")
    answered(page)
    assert page.locator("#without").is_hidden()

    def at(layer):
        page.fill("#layer", str(layer))
        return page.text_content("#layer-text"), page.evaluate("document.getElementById('picture').toDataURL()")

    before, seen = at(1)
    after, faded = at(2)
    assert before == "1, with 16 of 16 visual tokens"
    assert after == "2, with 8 of 16 visual tokens"
    assert seen != faded
    count = page.evaluate("""() => {
        const canvas = document.getElementById('picture'), pen = canvas.getContext('2d');
        let grey = 0;
        for (let row = 0; row < 4; row++) for (let column = 0; column < 4; column++) {
            const at = n => (n + 0.5) / 4;
            const [r, g, b] = pen.getImageData(canvas.width * at(column), canvas.height * at(row), 1, 1).data;
            grey += Math.abs(r - g) < 45 && Math.abs(g - b) < 45 && r < 200;
        }
        return grey;
    }""")
    assert count == 8
    heights = page.locator("#bars rect:not(.full)").evaluate_all(
        "bars => bars.map(bar => Number(bar.getAttribute('height')))"
    )
    assert heights == [1, 1, 0.5, 0.5]
    assert page.troubles == []


def test_everything_by_keyboard(page, tmp_path):
    give_key(page)
    page.focus("#example")
    page.keyboard.press("Enter")
    page.locator("#preview").wait_for()
    page.keyboard.press("Tab")  # the question
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.type("and now?")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#policy") == "fastv"
    page.focus("#question")
    page.keyboard.press("Enter")
    answered(page)
    page.focus("#layer")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#layer-text").startswith("1, with 16")
    page.keyboard.press("End")
    assert page.text_content("#layer-text").startswith("3, with 8")
    page.focus("#play")
    page.keyboard.press("Enter")
    until(page, "document.getElementById('layer-text').textContent.startsWith('3')")
    assert page.troubles == []


def test_a_file_is_chosen_and_a_large_one_scaled_down(page, tmp_path):
    give_key(page)
    Image.effect_noise((2400, 1200), 40).convert("RGB").save(tmp_path / "large.png")
    with page.expect_file_chooser() as chooser:
        page.click("#choose")
    chooser.value.set_files(tmp_path / "large.png")
    page.locator("#preview").wait_for()
    assert page.evaluate("document.getElementById('preview').decode().then(() => 1)") == 1
    assert page.evaluate("document.getElementById('preview').naturalWidth") == 1600
    page.click("#ask")
    answered(page)
    assert page.troubles == []


def test_a_picture_is_dropped(page):
    give_key(page)
    page.evaluate("""async () => {
        const canvas = document.createElement('canvas');
        canvas.width = canvas.height = 40;
        const blob = await new Promise(done => canvas.toBlob(done));
        const data = new DataTransfer();
        data.items.add(new File([blob], 'x.png', {type: 'image/png'}));
        document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true}));
    }""")
    page.locator("#preview").wait_for()
    page.click("#ask")
    answered(page)


def test_mistakes_are_said_in_words(page, tmp_path):
    give_key(page)
    page.click("#ask")
    assert page.text_content("#error") == "Choose a picture first."
    (tmp_path / "no.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "no.png")
    page.get_by_text("This file cannot be read as a picture.").wait_for()
    page.click("#example")
    page.locator("#preview").wait_for()
    page.fill("#question", "<image>")
    page.click("#ask")
    page.get_by_text("stands for a picture").wait_for()
    assert page.locator("#ask").is_enabled()


SMALL = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}


@pytest.mark.parametrize("page", [SMALL, {**SMALL, "color_scheme": "dark"}, {"color_scheme": "dark"}], indirect=True,
                         ids=["phone", "dark phone", "dark desk"])  # fmt: skip
def test_a_phone_and_the_dark(page):
    give_key(page)
    (page.tap if page.viewport_size["width"] < 500 else page.click)("#example")
    page.locator("#preview").wait_for()
    (page.tap if page.viewport_size["width"] < 500 else page.click)("#ask")
    answered(page)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    faint = page.evaluate(CONTRAST)
    assert faint == []
    small = page.evaluate("""() => [...document.querySelectorAll('button')].filter(b => b.offsetParent)
        .filter(b => b.getBoundingClientRect().height < 40).map(b => b.id)""")
    assert small == []


CONTRAST = """() => {
  const light = part => { const s = part / 255; return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4 };
  const level = c => 0.2126 * light(c[0]) + 0.7152 * light(c[1]) + 0.0722 * light(c[2]);
  const colour = words => words.match(/[\\d.]+/g).map(Number);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = colour(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('main *')]
    .filter(e => e.offsetParent && !e.disabled && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .filter(e => {
      const [a, b] = [level(colour(getComputedStyle(e).color)), level(ground(e))];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
    }).map(e => e.textContent.trim().slice(0, 40));
}"""


def test_scripts_in_answers_do_not_run(page):
    """The answer is written as text, and the policy of the page allows no script but its own."""
    give_key(page)
    page.evaluate("document.getElementById('with-answer').textContent = '<img src=x onerror=alert(1)>'")
    assert page.locator("#with-answer img").count() == 0
    header = page.evaluate("fetch('/').then(reply => reply.headers.get('content-security-policy'))")
    assert "default-src 'none'" in header
    assert "unsafe" not in header
