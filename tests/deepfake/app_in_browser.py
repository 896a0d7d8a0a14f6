"""app.py in a process of its own, and its page in a headless Chromium that finds no other machine.

Draws the picture of the documentation again, with any run:

    python -m tests.deepfake.app_in_browser runs/demo
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from skimage.data import astronaut

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "examples/deepfake"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NOWHERE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
DRAWN = "#answer:visible, #error:visible"

# Ends the process with code 9 as soon as Python asks for another machine's name or connects to anything.
WATCHED = """
import os, runpy, sys
sys.addaudithook(lambda event, _: event in ("socket.connect", "socket.getaddrinfo", "socket.sendto") and os._exit(9))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def browser_path() -> str | None:
    """The machine's own Chromium or Chrome."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def start(run: Path) -> tuple[subprocess.Popen[str], str]:
    """Start app.py at a free port: the process and the page's address."""
    command = [sys.executable, "-c", WATCHED, str(SCRIPTS / "app.py"), str(run), "--port=0"]
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{SCRIPTS}", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_can_interrupt
    )
    assert process.stdout
    line = process.stdout.readline()
    if "http://" not in line:
        raise RuntimeError(f"app.py did not start: {process.communicate()[1]}")
    return process, next(word for word in line.split() if word.startswith("http://"))


def _can_interrupt() -> None:
    """A shell's background process ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupt(process: subprocess.Popen[str], sent: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """Press Ctrl-C, or send another signal: the exit code and what is on standard error."""
    process.send_signal(sent)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@contextmanager
def page_at(address: str, width: int = 1100) -> Iterator[tuple[Any, list[str]]]:
    """The page, and the addresses that it asks for, also those that are refused."""
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=[NOWHERE])
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        yield page, asked
        browser.close()


def upload(page: Any, file: Path) -> None:
    """Choose a file and wait for the answer, or the error."""
    page.set_input_files("#file", file)
    page.wait_for_selector(DRAWN, timeout=120_000)
    page.evaluate("Promise.all([...document.images].filter(i => i.src && i.offsetParent).map(i => i.decode()))")


def main() -> None:
    """Write the picture of the page's answer to a photo: by default scikit-image's astronaut, in the public domain."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs/app.png")
    args = parser.parse_args()
    process, address = start(args.run)
    try:
        with tempfile.TemporaryDirectory() as folder, page_at(address, width=900) as (page, _):
            photo = args.picture or Path(folder, "astronaut.png")
            if args.picture is None:
                Image.fromarray(astronaut()).save(photo)
            upload(page, photo)
            page.screenshot(path=args.out, full_page=True)
    finally:
        interrupt(process)


if __name__ == "__main__":
    main()
