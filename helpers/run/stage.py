"""Runs one notebook headless with papermill; only on success its copy is moved to its place.

So a stage that failed does not look done. `python -m helpers.run.stage <notebook> <parameters.yaml>
<output.ipynb> <what it depends on> ...` is the Makefile's only way to run a notebook.
"""

import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

# jsonschema, which papermill imports, loads this module to check addresses, which the schema of
# notebooks has none of. It takes 1.6 s, and jsonschema goes without it.
sys.modules["rfc3987_syntax"] = None
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while this imports: an end without a traceback

import jupyter_client
import nbformat
import papermill
import psutil
import yaml
from nbclient.exceptions import DeadKernelError

from helpers.chat.ledger import RUN
from helpers.errors import command
from helpers.paths import ROOT
from helpers.progress import HEADLESS
from helpers.run import manifest

# Tags of cells, and the parameter: where it is empty or false, those cells are left out.
LEFT_OUT = {"training": "trained", "corpus": "generated"}
# What `execute` returns after a Ctrl-C.
INTERRUPTED = "interrupted", "interrupted; run again to go on", ""


def tidied(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without progress lines (stderr), timings, paths, widgets, marks of papermill."""
    for name in ("papermill", "widgets"):
        notebook.metadata.pop(name, None)
    notebook.metadata["language_info"] = {"name": "python"}  # the version is this machine's
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"  # papermill's is random
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:  # a widget's HTML outlives its kernel
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return notebook


SOCKETS = tempfile.TemporaryDirectory(prefix="kernel-")  # removed when this process ends


class KernelManager(jupyter_client.AsyncKernelManager):
    """Talks to the kernel through this process's own socket files, not TCP ports.

    No port is lost to somebody else, and nothing can be overheard.
    """

    transport = "ipc"
    ip = str(Path(SOCKETS.name) / "kernel")

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """Kill the kernel when its cells are done; interrupted, ask it to end by itself.

        An interrupted kernel first stores the replies that are paid for, and ends its training. To
        ask it takes a third of a second, and one in fifteen times three: its control thread then
        waits for a socket that is closed (ipykernel 7.4).
        """
        await super().shutdown_kernel(now=now or sys.exception() is None, restart=restart)


def parts(notebook: nbformat.NotebookNode, seconds: float) -> dict[str, float]:
    """Where a stage's seconds went, by its cells' tags; time outside of cells is `starting`."""
    spent = dict.fromkeys(manifest.PARTS, 0.0)
    spent["starting"] = seconds
    for cell in notebook.cells:
        duration = cell.metadata.get("papermill", {}).get("duration") or 0.0
        spent["starting"] -= duration
        for part in spent:
            if f"seconds-{part}" in cell.metadata.get("tags", []):
                spent[part] += duration
    return {part: round(time, 1) for part, time in spent.items()}


def execute(notebook: Path, parameters: dict, aside: Path) -> tuple[str, str, str]:
    """Run the notebook into the file `aside`.

    Returns:
        The state that the manifest notes; why; and what more the user is told.
    """
    cells = nbformat.read(notebook, as_version=4)
    absent = {tag for tag, name in LEFT_OUT.items() if not parameters.get(name, True)}
    cells.cells = [c for c in cells.cells if absent.isdisjoint(c.metadata.get("tags", []))]
    try:
        papermill.execute_notebook(
            cells,
            aside,
            parameters=parameters,
            kernel_name="python3",
            cwd=str(ROOT),
            progress_bar=False,
            stderr_file=sys.stderr,
            kernel_manager_class=KernelManager,
            # The kernel's own log at times calls an ordinary end an error.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "UserError":
            return "failed", error.evalue, ""
        if error.ename == "KeyboardInterrupt":
            return INTERRUPTED
        where = f"The whole traceback is in {os.path.relpath(aside)}"
        # The manifest gets the kind of error only: its message may hold anything, even a secret.
        return "failed", error.ename, f": {error.evalue}\n{where}"
    except DeadKernelError:
        return "failed", "the notebook's process died, most often for lack of memory", ""
    except KeyboardInterrupt:
        # A kernel that is just starting would find its socket files gone.
        for kernel in psutil.Process().children():
            kernel.kill()
        return INTERRUPTED
    return "done", "", ""


def run(notebook: Path, parameters: dict, output: Path, inputs: Iterable[Path] = ()) -> None:
    """Execute a notebook. On success `output` is its tidied copy.

    Else `<output>.partial.ipynb` shows how far it came. Either way the profile's manifest gets a
    line.

    Args:
        parameters: with `profile`, which says whose run this is.
        inputs: the files that the stage depends on, for the manifest.

    Raises:
        SystemExit: the notebook failed; the message is the user's sentence, or where to look.
    """
    label = f"{notebook.stem} {parameters.get('variant', '')}".strip()
    started = psutil.Process().create_time()
    aside = output.with_suffix(".partial.ipynb")
    # Taken before it runs: a file that is edited meanwhile differs from what is noted, so that make
    # runs the stage again.
    input_checksums = manifest.checksums(inputs)
    output.parent.mkdir(parents=True, exist_ok=True)
    os.environ[HEADLESS], os.environ[RUN] = label, f"{label} {uuid.uuid4().hex}"
    logging.getLogger("papermill").setLevel(logging.ERROR)
    state, sentence, more = execute(notebook, parameters, aside)
    spent = {}
    if state == "done":
        executed = nbformat.read(aside, as_version=4)
        spent = parts(executed, time.time() - started)
        nbformat.write(tidied(executed), aside)
    manifest.note(
        parameters["profile"],
        os.environ[RUN],
        notebook=label,
        started=started,
        state=state,
        sentence=sentence,
        read=input_checksums,
        made=manifest.results(notebook.stem, parameters),
        parts=spent,
    )
    if state != "done":
        sys.exit(f"{label}: {sentence}{more}")
    aside.replace(output)
    print(f"{label}: done in {time.time() - started:.0f} s", file=sys.stderr)


def main(notebook: str, parameters: str, output: str, *inputs: str) -> None:
    """Run it with the parameters of a file; `inputs` are what make looks at before it runs it."""
    values = yaml.safe_load(Path(parameters).read_text(encoding="utf-8"))
    run(Path(notebook), values, Path(output), [ROOT / path for path in inputs])


if __name__ == "__main__":
    command(main)
