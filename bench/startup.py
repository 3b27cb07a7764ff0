"""How long a notebook takes that does nothing: `make bench-startup`, beside importing torch.

Each notebook of the pipeline is cut down to its parameters and its imports, and executed as a stage
as make does it: Python, papermill, a kernel, the imports, the line in the manifest. Its peer is
`python -c "import torch, transformers"`, which every stage would pay at least once if it loaded
them. Medians of rounds, in turns; prints a table and writes runs/bench/startup.json.
"""

import shutil
import statistics
import subprocess
import sys
import time

import nbformat
import pandas as pd
import yaml

from bench.table import FOLDER, write
from helpers import paths
from helpers.profile.load import load_profile

ROUNDS = 5
PROFILE = "startup-bench"
PEER = "import torch, transformers"
STAGES = {
    "01_generate": "01_generate",
    "02_finetune": "02_finetune/k123-s0",
    "03_grade": "03_grade/base",
    "04_plot": "04_plot",
}


def cut_down(stage: str) -> nbformat.NotebookNode:
    """The notebook cut down to two cells: parameters and imports."""
    notebook = nbformat.read(paths.ROOT / f"notebooks/{stage}.ipynb", as_version=4)
    kept = []
    for cell in notebook.cells:
        if {"parameters", "seconds-starting"} & set(cell.metadata.get("tags", [])):
            kept.append(cell)
    assert len(kept) == 2, f"{stage}: its cells of parameters and imports carry other tags"
    notebook.cells = kept
    return notebook


def seconds(*program) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *program], cwd=paths.ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """All of it; a minute or two."""
    folder = paths.run(PROFILE)
    profile = load_profile("smoke")
    programs = {PEER: ["-c", PEER]}
    for stage, name in STAGES.items():
        values = {**profile[name].model_dump(mode="json"), "profile": PROFILE}
        (folder / stage).mkdir(parents=True, exist_ok=True)
        (folder / stage / "given.yaml").write_text(yaml.safe_dump(values))
        nbformat.write(cut_down(stage), folder / stage / f"{stage}.ipynb")
        files = [folder / stage / name for name in (f"{stage}.ipynb", "given.yaml", "done.ipynb")]
        programs[stage] = ["-m", "helpers.run.stage", *files]
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            times[name].append(seconds(*program))
    shutil.rmtree(folder)
    medians = {name: round(statistics.median(several), 2) for name, several in times.items()}
    peers = {PEER: medians.pop(PEER)}
    write(FOLDER / "startup.json", {"seconds": medians, "peers": peers, "rounds": ROUNDS})
    print(pd.Series({**medians, **peers}).to_string())


if __name__ == "__main__":
    main()
