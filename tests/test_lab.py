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
from dataclasses import dataclass
from pathlib import Path

import pytest
import websocket

from helpers.paths import ROOT

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
NOTEBOOK = ROOT / "notebooks/explore.ipynb"
PROFILE = "smoke"


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


class Page:
    """A page of Chromium, over its DevTools protocol."""

    def __init__(self, port: int):
        pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5))
        address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
        self.socket = websocket.create_connection(address, timeout=120, suppress_origin=True)
        self.numbers = itertools.count(1)

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

    def screenshot(self, file: Path) -> None:
        picture = self.call("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(picture))

    def cell(self, source: str) -> "Cell":
        return Cell(self, source)


@dataclass
class Cell:
    """The cell whose code holds `source`, with what it shows."""

    page: Page
    source: str

    def run(self, script: str):
        """The value of a script that calls the cell's element `cell`."""
        cells = "[...document.querySelectorAll('.jp-CodeCell')]"
        code = "querySelector('.jp-InputArea').innerText"
        found = f"{cells}.find(c => c.{code}.includes({json.dumps(self.source)}))"
        return self.page.run(f"{{const cell = {found}; {script}}}")

    def text(self) -> str:
        return self.run("cell.querySelector('.jp-Cell-outputArea')?.innerText ?? ''")

    def shows(self, words: str, seconds: float = 60) -> None:
        until(lambda: words in self.text(), seconds, f"no {words!r} in: {self.text()[-2000:]}")

    def choose(self, label: str, value: str) -> None:
        box = "[...cell.querySelectorAll('.widget-dropdown')]"
        self.run(
            f"const box = {box}.find(b => b.innerText.trim().startsWith({json.dumps(label)}));"
            "const select = box.querySelector('select');"
            f"select.selectedIndex = [...select.options].findIndex(o => o.text == '{value}');"
            "select.dispatchEvent(new Event('change', {bubbles: true}))"
        )

    def keep(self, column: str, value: str) -> None:
        """Choose a value in the list below a column's head."""
        heads = "[...cell.querySelectorAll('.dt-scroll-head th')]"
        self.run(
            f"{heads}.find(h => h.innerText.startsWith('{column}')).querySelector('button').click()"
        )
        values = "[...document.querySelectorAll('.dtcc-list-buttons button')]"
        self.page.run(f"{values}.find(b => b.innerText.trim() == '{value}').click()")
        self.page.run("document.body.click()")

    def rows(self) -> list[list[str]]:
        """The words of the table's rows on the page that is shown."""
        words = "[...row.cells].map(cell => cell.innerText)"
        rows = "[...cell.querySelectorAll('.dt-scroll-body tbody tr')]"
        return self.run(f"{rows}.map(row => {words})")

    def click_row(self, number: int) -> None:
        self.run(f"cell.querySelectorAll('.dt-scroll-body tbody tr')[{number}].cells[0].click()")


@pytest.fixture
def page(tmp_path):
    if not CHROMIUM:
        pytest.skip("no Chromium here (Debian's package is chromium)")
    subprocess.run(["make", "reproduce", f"PROFILE={PROFILE}"], cwd=ROOT, check=True)
    port = free_port()
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
    notebook = NOTEBOOK.with_stem("explore-in-a-test")  # JupyterLab saves by itself
    source = NOTEBOOK.read_text().replace('str = \\"mini\\"', f'str = \\"{PROFILE}\\"')
    notebook.write_text(source)
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
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
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
        page.call("Page.navigate", url=f"http://127.0.0.1:{port}/doc/tree/{notebook.name}?reset")
        yield page
        page.screenshot(tmp_path / "page.png")
    notebook.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 400])
def test_an_hour_of_curiosity(page, width):
    """Run all, filter, open an answer, compare two models, ask something else."""
    # Tall: JupyterLab draws only the cells that are in view.
    size = {"width": width, "height": 9000, "deviceScaleFactor": 1, "mobile": False}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    cells = "document.querySelectorAll('.jp-Notebook .jp-Cell').length > 5"
    until(lambda: page.run(f"!!window.jupyterapp && {cells}"), 120, "no notebook is shown")
    kernel = "w.sessionContext?.session?.kernel?.status == 'idle'"
    main = "[...jupyterapp.shell.widgets('main')]"
    until(lambda: page.run(f"{main}.some(w => {kernel})"), 60, "no kernel has started")
    assert page.run("jupyterapp.commands.execute('notebook:run-all-cells')") is not False

    page.cell("run.ask").shows("of 3 with full marks", 120)
    page.cell("widgets.corpus").shows("outcome too many sentences, k ")

    answers = page.cell("widgets.answers")
    answers.choose("model", "base")
    answers.shows("base, setting")
    until(lambda: answers.rows(), 30, "no rows are shown")
    answers.keep("k", "2")
    until(lambda: {row[1] for row in answers.rows()} == {"2"}, 30, "the filter does not narrow")
    opened = answers.text().split("base, setting")[1]
    answers.click_row(3)
    until(lambda: opened not in answers.text(), 30, "no other answer is opened")
    answers.shows(answers.rows()[3][3])
    answers.shows("reply 3")

    comparison = page.cell("widgets.comparison")
    for words in ("base: ", "k123-s0: ", "of 3 with full marks"):
        comparison.shows(words)
    comparison.choose("second", "base")
    until(lambda: "k123-s0: " not in comparison.text(), 30, "the other model is not compared")
    comparison.shows("base: ")

    question = page.cell("widgets.asker")
    question.choose("topic", "dueling")
    question.run("cell.querySelector('button.jupyter-button').click()")
    question.shows("Topic: dueling")
    question.shows("of 5 with full marks")
    shown = page.run("document.body.innerText")
    assert "Traceback" not in shown
    assert "Error" not in shown
    boxes = "[...document.querySelectorAll('.widget-vbox, .widget-hbox, .widget-html')]"
    too_wide = f"{boxes}.filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"
    assert page.run(too_wide) == []
