"""`make notebooks`: the committed notebooks get the outputs of a run's executed copies.

Nothing is run again. What papermill put into the copies, the cell of parameters, is left out.
"""

from pathlib import Path

import nbformat

from helpers import paths
from helpers.errors import UserError, command
from helpers.paths import ROOT

VARIANT = "k123-s0"  # whose copies of 02 and 03 are shown


def with_outputs(notebook: Path, executed: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs of its executed copy.

    Raises:
        UserError: there is no copy, or it is of another notebook than this.
    """
    if not executed.exists():
        raise UserError(f"{executed.relative_to(ROOT)}: not there yet; run make reproduce first")
    renewed = nbformat.read(notebook, as_version=4)
    copies = {cell.id: cell for cell in nbformat.read(executed, as_version=4).cells}
    number = 0
    for cell in renewed.cells:
        copy = copies.get(cell.id)
        if copy is None or copy.source != cell.source:
            raise UserError(
                f"{executed.relative_to(ROOT)} is not of {notebook.relative_to(ROOT)} as it is now;"
                " run make reproduce first"
            )
        if cell.cell_type == "code":
            number += 1
            cell.execution_count = number
            cell.outputs = copy.outputs
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = number
    return renewed


def main(profile: str) -> None:
    """Renew the four notebooks of the pipeline from the run of `profile`."""
    folder = paths.run(profile)
    executed = {
        "01_generate": folder / "01_generate.ipynb",
        "02_finetune": folder / f"02_finetune/{VARIANT}.ipynb",
        "03_grade": folder / f"03_grade/{VARIANT}.ipynb",
        "04_plot": folder / "04_plot.ipynb",
    }
    renewed = {}
    for stem, copy in executed.items():
        notebook = ROOT / f"notebooks/{stem}.ipynb"
        renewed[notebook] = with_outputs(notebook, copy)
    for notebook, content in renewed.items():
        nbformat.write(content, notebook)


if __name__ == "__main__":
    command(main)
