"""Copies the outputs of a run's executed notebooks into the committed ones: `make notebooks`.

Nothing is run again. What papermill put into the copies, the cell of parameters, is left out.
"""

from pathlib import Path

import nbformat

from helpers import paths
from helpers.errors import UserError, command
from helpers.paths import ROOT

VARIANT = "k123-s0"  # the variant whose copies of 02 and 03 are taken


def with_outputs(notebook: Path, executed: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of its executed copy.

    Raises:
        UserError: the notebook was changed since the copy was executed.
    """
    renewed, copy = (nbformat.read(path, as_version=4) for path in (notebook, executed))
    copies = [cell for cell in copy.cells if cell.id != "injected-parameters"]
    if [cell.source for cell in copies] != [cell.source for cell in renewed.cells]:
        raise UserError(f"{executed} is not of {notebook} as it is now; run make reproduce first")
    number = 0
    for cell, same in zip(renewed.cells, copies, strict=True):
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            cell.outputs = same.outputs
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = number
    return renewed


def main(profile: str) -> None:
    """Renew all notebooks from the run of `profile`."""
    pipeline = ("01_generate", f"02_finetune/{VARIANT}", f"03_grade/{VARIANT}", "04_plot")
    for name in (*pipeline, "explore"):
        notebook = ROOT / f"notebooks/{name.split('/')[0]}.ipynb"
        executed = paths.run(profile) / f"{name}.ipynb"
        nbformat.write(with_outputs(notebook, executed), notebook)


if __name__ == "__main__":
    command(main)
