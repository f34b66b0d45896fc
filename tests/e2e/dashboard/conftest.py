"""A real browser, and the host in its own process, which can stop and restart."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support import install_plugin

TOKEN = "the-admin-token-of-the-browser-tests"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HEAVY = '''
"""A handler of some megabytes that streams word by word."""
import asyncio
from handler_host.chat import ChatHandler, Usage, UsageChunk

class Handler(ChatHandler):
    ballast = b"x" * 40_000_000

    async def stream(self, request):
        for word in request.last_text().split():
            if word == "BOOM":
                raise RuntimeError("a secret detail")
            if word == "WAIT":
                await asyncio.Event().wait()
            yield word + " "
        yield UsageChunk(usage=Usage(prompt_tokens=1200, completion_tokens=2, total_tokens=1202))
'''


class Host:
    """The host process; it keeps its port when it restarts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, token: str = TOKEN) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "handler_host",
                "serve",
                "--config",
                str(self.root / "host.toml"),
                "--port",
                str(self.port),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"HANDLER_HOST_ADMIN_TOKEN": token, "HANDLER_HOST_API_KEYS": "a-key-of-a-consumer"},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    def configure(self, text: str) -> None:
        """Append to the configuration and restart."""
        self.stop()
        with (self.root / "host.toml").open("a") as file:
            file.write(text)
        self.start()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            assert self.process.wait(30) == 0
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Start a host with two handlers."""
    for name in ("heavy", "light"):
        source = HEAVY if name == "heavy" else HEAVY.replace("40_000_000", "1_000")
        install_plugin(tmp_path, name, source, manifest=f'title = "A {name} one"\n')
    (tmp_path / "host.toml").write_text(
        f'[catalog]\nroots = ["{tmp_path}"]\ninclude_sys_path = false\n'
        '[defaults]\npreload = []\n[memory]\nlimit = "512MB"\nsample_interval = "0.2s"\n'
        f'state_file = "{tmp_path}/state"\n'
    )
    host = Host(tmp_path)
    host.start()
    yield host
    host.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Chromium for one module: its event loop would conflict with those of other modules."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open a page; an error of a script or a violation of its policy fails the test."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(30_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: problems.append(message.text) if "Content Security Policy" in message.text else None,
    )
    yield page
    page.close()
    assert not problems
