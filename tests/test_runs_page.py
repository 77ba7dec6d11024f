"""`samebits ui`: MLflow's page in a real browser, whose first screen shows what came out."""

import json
import signal
import socket
from pathlib import Path

import pytest

from tests.browser import Browser, chromium
from tests.conftest import Repository

# The texts that one sees without scrolling, of elements that hold nothing but a text.
IN_SIGHT = """[...document.querySelectorAll('body *')].filter((e) => {
  const box = e.getBoundingClientRect();
  return !e.children.length && e.innerText && document.elementFromPoint(box.right - 1, box.bottom - 1) === e;
}).map((e) => e.innerText)"""
NOTE = "[...document.images].filter((i) => i.src.includes('confusion_matrix.png')).map((i) => i.naturalWidth > 500)"


@pytest.mark.long  # MLflow is imported three times
def test_the_first_screen_shows_the_accuracy_of_the_last_run(done: Repository, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    browser.chmod(0o755)
    display = ["env", "DISPLAY=:0", f"BROWSER={browser} %s"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        process = done.start(*display, "samebits", "ui", "--port", str(taken))
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "MLflow starts ...\n"
            line = process.stdout.readline()
            address = line.removeprefix("tracking page: ").rstrip()
            server = address.partition("/#/")[0]
            assert taken < int(server.removeprefix("http://127.0.0.1:")) < taken + 10, line
            assert process.stdout.readline() == "Ctrl-C ends it.\n"
            with chromium() as tab:
                _look(tab, address, tmp_path, done)
            told = done.run(*display, "samebits", "ui", MLFLOW_TRACKING_URI=server)
            assert told.stdout == f"tracking page: {address}\n" and told.stderr == "MLflow starts ...\n"
            assert opened.read_text() == f"{address}\n" * 2
        finally:
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "")
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", int(server.rpartition(":")[2])), timeout=5):
        pass
    assert done.status() == ""


def _look(tab: Browser, address: str, folder: Path, done: Repository) -> None:
    accuracy = json.loads((done.root / "metrics/evaluate.json").read_text())["accuracy"]
    tab.visit(address, "lab-seed0", 1400)
    texts = tab.evaluate(IN_SIGHT)
    tab.screenshot(folder / "runs.png")
    assert {"accuracy", "loss", "recipe", "seed", f"{accuracy:g}", "lab", "0"} <= set(texts), texts
    run_id = tab.evaluate("document.querySelector('a[href*=\"/runs/\"]').href.split('/runs/')[1]")
    text = tab.visit(f"{address.partition('/runs')[0]}/runs/{run_id}", "Show more", 1400)
    assert f"accuracy {100 * accuracy:.2f} % (95 %: " in text and f"samebits verify --run {run_id}" in text
    assert "dvc.yaml" in text and "samebits.environment" not in text
    tab.wait_for(NOTE, [True])
    tab.screenshot(folder / "run.png")
