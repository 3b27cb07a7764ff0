"""Runs one notebook headless with papermill: aside, and moved to its place on success, so that a failed stage is not done.

`python -m helpers.run.stage <notebook> [<parameters.yaml>] <output.ipynb>`; the Makefile's only way to run a notebook.
"""

import ast
import logging
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path

import jupyter_client
import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError

from helpers.chat.ledger import RUN
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.progress import HEADLESS
from helpers.run import manifest


def tidied(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without progress lines (stderr), timings, paths and papermill's marks: results only."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata["language_info"] = {"name": "python"}  # the version is this machine's
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"  # papermill's is random
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


SOCKETS = tempfile.TemporaryDirectory(prefix="kernel-")  # removed when this process ends


class KernelManager(jupyter_client.AsyncKernelManager):
    """Talks to the kernel through this process's own socket files, not TCP ports: no port to lose, nothing to overhear."""

    transport = "ipc"
    ip = str(Path(SOCKETS.name) / "kernel")

    def format_kernel_cmd(self, extra_arguments: list[str] | None = None) -> list[str]:
        """Without the kernel's own log: now and then it calls its end, which starts with an interrupt, an error."""
        return super().format_kernel_cmd([*(extra_arguments or []), "--log-level=CRITICAL"])


def parameters_of(notebook: Path, given: dict | None) -> dict:
    """What the notebook will run with: its own defaults, and what is given over them."""
    declared = papermill.inspect_notebook(str(notebook))
    return {
        name: ast.literal_eval(parameter["default"]) for name, parameter in declared.items()
    } | (given or {})


def run(notebook: Path, parameters: dict | None, output: Path) -> None:
    """Execute; on success `output` is the tidied copy, else `<output>.partial.ipynb` holds what happened.

    Either way the profile's manifest gets a line.

    Raises:
        SystemExit: the notebook failed; the message is the user's sentence, or where to look.
    """
    label, started = (
        " ".join(
            output.with_suffix("").parts[-2:] if output.parent.name[:1].isdigit() else [output.stem]
        ),
        time.time(),
    )
    aside, every = output.with_suffix(".partial.ipynb"), parameters_of(notebook, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    os.environ[HEADLESS], os.environ[RUN] = label, f"{label} {uuid.uuid4().hex}"
    logging.getLogger("papermill").setLevel(logging.ERROR)

    def noted(state: str, sentence: str = "") -> None:
        if "profile" in every:
            made = manifest.results(notebook.stem, every) if state == "done" else []
            about = {
                "notebook": label,
                "started": started,
                "state": state,
                "sentence": sentence,
                "made": made,
            }
            manifest.note(every["profile"], os.environ[RUN], **about)

    try:
        papermill.execute_notebook(
            notebook,
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
            noted("failed", error.evalue)
            sys.exit(f"{label}: {error.evalue}")
        noted("failed", error.ename)  # what else an error says may hold anything
        sys.exit(
            f"{label} failed: {error.ename}: {error.evalue}\nThe whole traceback is in {os.path.relpath(aside)}"
        )
    except DeadKernelError:
        noted("failed", "the kernel died")
        sys.exit(
            f"{label}: the notebook's process died, most often because the machine ran out of memory; run again to go on"
        )
    except KeyboardInterrupt:
        noted("interrupted")
        raise
    nbformat.write(tidied(nbformat.read(aside, as_version=4)), aside)
    noted("done")
    aside.replace(output)
    print(f"{label}: done in {time.time() - started:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    source, *values, target = map(Path, sys.argv[1:])
    try:
        run(source, yaml.safe_load(values[0].read_text()) if values else None, target)
    except UserError as error:
        sys.exit(str(error))
