"""Takes the screenshots of the playground in docs/images: python dev/playground_screenshots.py [FOLDER]

Starts `lookaway serve` on lookaway-mini with its gates and FastV, and drives Debian's Chromium as the tests do.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]


def until(page, check):
    while not page.evaluate(check):
        page.wait_for_timeout(100)


def ask(page, policy, question):
    page.click("#example")
    page.locator("#preview").wait_for()
    page.fill("#question", question)
    page.select_option("#policy", policy)
    page.click("#ask")
    until(page, "!document.getElementById('ask').disabled")


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "images")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    gates = ROOT / "src/lookaway/models/mini/weights/gates-exit-aware"
    command = [sys.executable, "-m", "lookaway", "serve", "--port", str(port), "--policy", f"gates={gates}", "--policy",
               f"fastv={ROOT / 'configs/fastv.yaml'}"]  # fmt: skip
    server = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/health")
                break
            except OSError:
                time.sleep(0.5)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1040, "height": 900})
            page.goto(address)
            until(page, "document.getElementById('policy').options.length === 3")
            ask(page, "gates", "what color is the shape?")  # the first request of a process is slower
            ask(page, "gates", "what color is the shape?")
            page.fill("#layer", "14")
            page.screenshot(path=folder / "playground.png", full_page=True)
            phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark", is_mobile=True)
            phone.goto(address)
            until(phone, "document.getElementById('policy').options.length === 3")
            ask(phone, "fastv", "what shape is in the image?")
            phone.fill("#layer", "20")
            phone.screenshot(path=folder / "playground-phone.png", full_page=True)
            browser.close()
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    main()
