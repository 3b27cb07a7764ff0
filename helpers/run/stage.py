"""Runs one notebook headless with papermill: aside, and moved to its place on success.

So a failed stage is not done. `python -m helpers.run.stage <notebook> <parameters.yaml>
<output.ipynb>` is the Makefile's only way to run a notebook; without parameters it runs with its
own.
"""

import ast
import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from pathlib import Path

# It checks addresses that no notebook's schema has, and takes 1.6 s to import: jsonschema, and with
# it papermill, goes without.
sys.modules["rfc3987_syntax"] = None
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while this imports: an end without a traceback

import jupyter_client
import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError

from helpers.chat.ledger import RUN
from helpers.errors import command
from helpers.paths import ROOT
from helpers.progress import HEADLESS
from helpers.run import lock, manifest

# Tags of cells that are left out, and the parameter that is empty or false then.
LEFT_OUT = {"training": "trained", "corpus": "generated"}


def tidied(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Results only: no progress lines (stderr), timings, paths, widgets, marks of papermill."""
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
    inherited: tuple[int, ...] = ()  # descriptors that the kernel gets: the run's lock
    process = None  # the kernel that was started last

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """Without the kernel's own log, which at times calls an ordinary end an error."""
        return super().format_kernel_cmd([*(extra_arguments or []), "--log-level=CRITICAL"])

    async def _async_launch_kernel(self, kernel_cmd: list[str], **settings) -> None:
        await super()._async_launch_kernel(kernel_cmd, pass_fds=self.inherited, **settings)
        KernelManager.process = self.provisioner.process

    _launch_kernel = _async_launch_kernel


def parameters_of(notebook: Path, given: dict) -> dict:
    """What the notebook will run with: its own defaults, and what is given over them."""
    declared = papermill.inspect_notebook(str(notebook))
    defaults = {name: ast.literal_eval(field["default"]) for name, field in declared.items()}
    return defaults | given


def label_of(output: Path) -> str:
    """What a stage is called in lines of progress and in the manifest: `03_grade k12-s0`."""
    if output.parent.name[:1].isdigit():
        return f"{output.parent.name} {output.stem}"
    return output.stem


def execute(notebook: Path, parameters: dict, aside: Path) -> tuple[str, str, str]:
    """Run the notebook into the file `aside`.

    Returns:
        The state that the manifest notes; why, for the manifest; and why, for the user.
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
        )
    except papermill.PapermillExecutionError as error:
        if error.ename == "UserError":
            return "failed", error.evalue, f": {error.evalue}"
        if error.ename == "KeyboardInterrupt":
            return "interrupted", "", ": interrupted; run again to go on"
        where = f"The whole traceback is in {os.path.relpath(aside)}"
        # For the manifest the kind is all: what else an error says may hold anything.
        return "failed", error.ename, f" failed: {error.ename}: {error.evalue}\n{where}"
    except DeadKernelError:
        likely = "most often because the machine ran out of memory; run again to go on"
        return "failed", "the kernel died", f": the notebook's process died, {likely}"
    except KeyboardInterrupt:
        if KernelManager.process:
            KernelManager.process.kill()  # one that was just starting
        return "interrupted", "", ": interrupted; run again to go on"
    return "done", "", ""


def run(notebook: Path, parameters: dict, output: Path) -> None:
    """Execute; on success `output` is the tidied copy, else `<output>.partial.ipynb` what happened.

    Either way the profile's manifest gets a line.

    Raises:
        UserError: another make works on this run.
        SystemExit: the notebook failed; the message is the user's sentence, or where to look.
    """
    label, started = label_of(output), time.time()
    values = parameters_of(notebook, parameters)
    profile = values.get("profile")
    if profile:
        held = lock.hold(profile, label)
        KernelManager.inherited = (held.fileno(),)
    aside = output.with_suffix(".partial.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    os.environ[HEADLESS], os.environ[RUN] = label, f"{label} {uuid.uuid4().hex}"
    logging.getLogger("papermill").setLevel(logging.ERROR)
    state, sentence, message = execute(notebook, parameters, aside)
    if state == "done":
        nbformat.write(tidied(nbformat.read(aside, as_version=4)), aside)
    if profile:
        manifest.note(
            profile,
            os.environ[RUN],
            notebook=label,
            started=started,
            state=state,
            sentence=sentence,
            made=manifest.results(notebook.stem, values),
        )
    if state != "done":
        sys.exit(f"{label}{message}")
    aside.replace(output)
    print(f"{label}: done in {time.time() - started:.0f} s", file=sys.stderr)


def main(notebook: str, *parameters_and_output: str) -> None:
    """Run it with the parameters of a file, or without."""
    *files, output = map(Path, parameters_and_output)
    parameters = yaml.safe_load(files[0].read_text(encoding="utf-8")) if files else {}
    run(Path(notebook), parameters or {}, Path(output))


if __name__ == "__main__":
    command(main)
