"""Runs one notebook headless with papermill: aside, and moved to its place on success, so that a failed stage is not done.

`python -m helpers.stage <notebook> [<parameters.yaml>] <output.ipynb>`; the Makefile's only way to run a notebook.
"""

import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import jupyter_client
import nbformat
import papermill
import yaml

from helpers.paths import ROOT
from helpers.progress import HEADLESS


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


def run(notebook: Path, parameters: dict | None, output: Path) -> None:
    """Execute; on success `output` is the tidied copy, else `<output>.partial.ipynb` holds what happened.

    Raises:
        SystemExit: the notebook failed; the message is the user's sentence, or where to look.
    """
    label, start = " ".join(output.with_suffix("").parts[-2:] if output.parent.name[:1].isdigit() else [output.stem]), time.monotonic()
    aside = output.with_suffix(".partial.ipynb")
    output.parent.mkdir(parents=True, exist_ok=True)
    os.environ[HEADLESS] = label
    logging.getLogger("papermill").setLevel(logging.ERROR)
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
            sys.exit(f"{label}: {error.evalue}")
        sys.exit(f"{label} failed: {error.ename}: {error.evalue}\nThe whole traceback is in {os.path.relpath(aside)}")
    nbformat.write(tidied(nbformat.read(aside, as_version=4)), aside)
    aside.replace(output)
    print(f"{label}: done in {time.monotonic() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    source, *values, target = map(Path, sys.argv[1:])
    run(source, yaml.safe_load(values[0].read_text()) if values else None, target)
