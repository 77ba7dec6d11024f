"""A real headless Chromium, driven through its debugging pipe: what a page asks for, says and looks like."""

import base64
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import require_program

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# What a page must not have: wider than its window, elements that stick out, pictures that do not load or say nothing.
LOOK = """(() => {
  const wide = document.documentElement.clientWidth;
  const inside = (element) => element.closest('.scroll, pre');
  const out = [...document.querySelectorAll('main *')].filter((e) => !inside(e) && e.getBoundingClientRect().right > wide + 1);
  const images = [...document.images];
  return {
    wide, scroll: document.documentElement.scrollWidth, out: out.slice(0, 5).map((e) => e.outerHTML.slice(0, 120)),
    images: images.length, broken: images.filter((i) => !i.complete || !i.naturalWidth).length,
    silent: images.filter((i) => !i.alt).length + [...document.querySelectorAll('svg')].filter((s) => !s.ariaLabel).length,
    background: getComputedStyle(document.body).backgroundColor, text: document.body.innerText,
  };
})()"""


@dataclass
class Browser:
    """One tab; `events` holds all that the browser has reported."""

    commands: int
    answers: int
    events: list[dict[str, Any]] = field(default_factory=list)
    _count: int = 0
    _session: str | None = None
    _buffer: bytes = b""

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and wait for its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        os.write(
            self.commands,
            json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0",
        )
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, page: Path, width: int, dark: bool = False) -> dict[str, Any]:
        """Open a page in a window of `width` pixels, wait until it is loaded, and look at it."""
        self.events.clear()
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())
        return dict(self.evaluate(LOOK))

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page; None if it fails."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str, value: Any, seconds: float = 120) -> None:
        """Wait until an expression in the page has a value."""
        deadline = time.monotonic() + seconds
        while (now := self.evaluate(expression)) != value:
            assert time.monotonic() < deadline, now
            time.sleep(0.2)

    def visit(self, address: str, text: str, width: int) -> str:
        """Open an address in a window of `width` pixels, wait until a program in it shows `text`, and return all that it shows."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=address)
        self.wait_for(f"document.body.innerText.includes({json.dumps(text)})", True)
        return str(self.evaluate("document.body.innerText"))

    def screenshot(self, path: Path) -> None:
        """Save a picture of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def requested(self) -> list[str]:
        """Return the addresses that the page has asked for."""
        return [
            event["params"]["request"]["url"] for event in self.events if event["method"] == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Return all that the page has said on its console, and what the browser has to say about it."""
        methods = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Audits.issueAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in methods]

    def attach(self) -> None:
        """Make a tab and listen to all of it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self.answers, 1 << 20)
            assert part, "chromium has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium with a profile of its own; skip the test where it is missing."""
    require_program("chromium", "chromium")
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:

        def wire() -> None:  # the browser reads commands from 3 and writes answers to 4
            ours = os.dup(to_browser[0]), os.dup(from_browser[1])
            os.dup2(ours[0], 3)
            os.dup2(ours[1], 4)

        process = subprocess.Popen(
            ["chromium", *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"],
            preexec_fn=wire,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            browser = Browser(to_browser[1], from_browser[0])
            browser.attach()
            yield browser
        finally:
            process.kill()
            process.wait()
            os.close(to_browser[1])
            os.close(from_browser[0])
