"""`make lab` and explore.ipynb in a real headless browser, as somebody who tries it sees it."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
import websocket

from helpers.paths import ROOT

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
NOTEBOOK = ROOT / "notebooks/explore.ipynb"
SHOWN = "[...document.querySelectorAll('.jp-OutputArea')].map(a => a.innerText).join('\\n')"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def until(what, seconds: float, said: str):
    """The first value of `what()` that is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, KeyError):
            if found := what():
                return found
        time.sleep(0.2)
    pytest.fail(f"after {seconds} s: {said}")


@contextlib.contextmanager
def started(command, **settings):
    """A process with all that it starts, ended at the end."""
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **settings)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def answered(shown: str, about: str = "Is about") -> str | None:
    """What the notebook shows, once the base's answer and its points are there."""
    return shown if "--- base" in shown and about in shown.split("--- base")[1] else None


class Page:
    """A page of Chromium, over its DevTools protocol."""

    def __init__(self, port: int):
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5))
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self.socket, self.numbers = (
            websocket.create_connection(address, timeout=120, suppress_origin=True),
            itertools.count(1),
        )

    def call(self, method: str, **parameters) -> dict:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := json.loads(self.socket.recv())).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, script: str):
        """The value of a script, once its promise is kept."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")


@pytest.fixture
def page(tmp_path):
    if not CHROMIUM:
        pytest.skip("no Chromium here (Debian's package is chromium)")
    port, before = free_port(), NOTEBOOK.read_bytes()
    settings = {
        "ServerApp": {"port": port, "port_retries": 0, "open_browser": False, "allow_root": True},
        "IdentityProvider": {"token": ""},
        "LabApp": {
            "expose_app_in_browser": True,
            "check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
            "news_url": None,
        },
    }
    (tmp_path / "config").mkdir()
    (tmp_path / "config/jupyter_server_config.json").write_text(json.dumps(settings))
    lab = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
    }
    browser = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1300,3000",
        "--remote-debugging-port=0",
    ]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with (
        open(tmp_path / "lab.log", "w") as log,
        started(["make", "lab"], env=lab, stdout=log, stderr=log),
        started([*browser, f"--user-data-dir={tmp_path / 'browser'}", "about:blank"], **quiet),
    ):
        until(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5).status == 200,
            120,
            "JupyterLab does not answer",
        )
        told = tmp_path / "browser/DevToolsActivePort"
        devtools = int(until(told.read_text, 60, "Chromium does not start").split()[0])
        page = until(lambda: Page(devtools), 30, "Chromium has no page")
        page.call("Page.navigate", url=f"http://127.0.0.1:{port}/doc/tree/{NOTEBOOK.name}?reset")
        yield page
        (tmp_path / "page.png").write_bytes(
            base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"])
        )
    NOTEBOOK.write_bytes(before)  # JupyterLab saves by itself


@pytest.mark.slow
def test_explore_works_in_a_browser(page):
    until(
        lambda: page.run(
            "!!window.jupyterapp && document.querySelectorAll('.jp-Notebook .jp-Cell').length > 5"
        ),
        120,
        "no notebook is shown",
    )
    until(
        lambda: page.run(
            "[...jupyterapp.shell.widgets('main')]"
            ".some(w => w.sessionContext?.session?.kernel?.status == 'idle')"
        ),
        60,
        "no kernel has started",
    )
    assert page.run("jupyterapp.commands.execute('notebook:run-all-cells')") is not False
    shown = until(
        lambda: answered(page.run(SHOWN)), 90, f"no answer is shown: {page.run(SHOWN)[-2000:]}"
    )
    assert "Traceback" not in shown
    assert "Error" not in shown
    assert page.run("document.querySelectorAll('.jp-OutputArea select').length") >= 2, (
        "topic and skills can be chosen"
    )
    topic = page.run("document.querySelector('.jp-OutputArea select').value")
    page.run(
        "{const s = document.querySelector('.jp-OutputArea select');"
        " s.selectedIndex = (s.selectedIndex + 3) % s.options.length;"
        " s.dispatchEvent(new Event('change', {bubbles: true}))}"
    )
    chosen = page.run("document.querySelector('.jp-OutputArea select').selectedOptions[0].text")
    assert page.run("document.querySelector('.jp-OutputArea select').value") != topic
    shown = until(
        lambda: answered(page.run(SHOWN), f"Is about {chosen}"),
        60,
        f"another topic ({chosen}) changes nothing",
    )
    assert "Traceback" not in shown
