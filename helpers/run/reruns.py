"""What make runs again: `python -m helpers.run.reruns mini`, before make looks at any stage.

A stage runs again when its notebook, its parameters, a file that these name, a file that it reads
from an earlier stage or a module that its notebook imports, all the way down, was changed. This
writes what make needs for that to `runs/<profile>/notebooks.mk`, and one file of parameters a
notebook to `runs/<profile>/params/`. A stage whose results are gone, changed or damaged loses its
executed notebook's name, by which make takes it for done.
"""

import ast
import hashlib
import json
import re
import sys
from pathlib import Path

import grimp
import yaml

from helpers import paths
from helpers.errors import UserError, command
from helpers.files import sha256, write_text
from helpers.paths import ROOT
from helpers.profile.load import load_profile, load_variants
from helpers.profile.schema import Model
from helpers.run import lock, manifest
from helpers.training.recipe import fingerprint

SMALL = 50_000_000  # bytes; larger results are compared only if newer than the stage that made them
Profile = dict[str, Model]  # parameters by notebook: `01_generate`, `02_finetune/<variant>`, ...


# ---- the modules that a notebook reaches ----


def imports(notebook: Path) -> set[str]:
    """The names that a notebook's code cells import; of `from a import b`, both `a` and `a.b`."""
    names = set()
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code":
            continue
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def reached(names: set[str], graph: grimp.ImportGraph) -> list[str]:
    """The files of all modules that those named import, from the repository's root, sorted.

    A module's rooms are run when it is imported, so their `__init__.py` belong to it, and so do
    files of other kinds with its name: `ledger.sql` to `ledger.py`.
    """
    modules = names & graph.modules
    for name in list(modules):
        modules |= graph.find_upstream_modules(name)
    files = set()
    for name in modules:
        place = Path(*name.split("."))
        files |= {file.relative_to(ROOT) for file in ROOT.glob(f"{place}.*")}
        files |= {room / "__init__.py" for room in place.parents[:-1]}
    return sorted(map(str, files))


# ---- what make reads ----


def named_files(parameters: Model) -> str:
    """A hash of the files that parameters name: catalog, prompts, topology, a student's folder."""
    values = parameters.model_dump()
    values |= {
        name: judge["grading_prompts"] for name, judge in values.get("second_judges", {}).items()
    }
    if isinstance(values.get("student"), dict):
        values["student"] = values["student"].get("answers")
    values["chats"] = values.get("mix", {}).get("chats")
    places = [ROOT / value for value in values.values() if isinstance(value, str) and value]
    for name in ("corpus", "chats"):  # either may be a folder of files
        if values.get(name):
            places += sorted((ROOT / values[name]).rglob("*"))
    files = [sha256(place) for place in places if place.is_file()]
    folders = [fingerprint(str(place)) for place in places if (place / "config.json").is_file()]
    return hashlib.sha256("".join(files + folders).encode()).hexdigest()[:16]


def write_parameters(profile: str, notebooks: Profile) -> None:
    """One file a notebook, untouched where nothing changed: an edited comment reruns nothing."""
    folder = paths.run(profile) / "params"
    files = {folder / f"{name}.yaml": parameters for name, parameters in notebooks.items()}
    for old in set(folder.rglob("*.yaml")) - set(files):
        old.unlink()
    for file, parameters in files.items():
        values = parameters.model_dump(mode="json")
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        write_text(file, f"# inputs: {named_files(parameters)}\n{text}")


def makefile(profile: str, notebooks: Profile) -> str:
    """The lines that the Makefile includes: jobs, threads, variants, and the modules of each stage.

    Raises:
        UserError: a name that make would read as something else.
    """
    for name in notebooks:
        if not re.fullmatch(r"[\w./-]+", name, re.ASCII):
            raise UserError(f"params/{profile}: {name!r}: a name is of letters, digits, _, - and .")
    jobs = load_variants(profile).jobs
    cores = manifest.cores()
    if jobs == "auto":
        jobs = cores
    trained = [name.split("/")[1] for name in notebooks if name.startswith("02")]
    graded = [name.split("/")[1] for name in notebooks if name.startswith("03")]
    lines = [
        f"JOBS := {jobs}",
        f"THREADS := {max(1, cores // jobs)}",
        f"TRAINED := {' '.join(trained)}",
        f"GRADED := {' '.join(graded)}",
        f"CORPUS := {'$(RUN)/corpus.jsonl' if '01_generate' in notebooks else ''}",
    ]
    # A fine-tuned model is graded after it is trained; a base at any time.
    for variant in trained:
        model = f"$(RUN)/training/{variant}/model/identity.json"
        lines.append(f"$(RUN)/03_grade/{variant}.ipynb: {model}")
    graph = grimp.build_graph("helpers", cache_dir=None)
    executed = {
        "01_generate": "$(RUN)/01_generate.ipynb",
        "02_finetune": "$(TRAINED:%=$(RUN)/02_finetune/%.ipynb)",
        "03_grade": "$(GRADED:%=$(RUN)/03_grade/%.ipynb)",
        "04_plot": "$(RUN)/04_plot.ipynb",
    }
    for stage, targets in executed.items():
        files = reached(imports(ROOT / f"notebooks/{stage}.ipynb"), graph)
        lines.append(f"{targets}: {' '.join(files)}")
    lines.append(f"$(RUN)/report.done: {' '.join(reached({'helpers.run.report'}, graph))}")
    return "\n".join(lines) + "\n"


# ---- results that are not what they were ----


def set_aside(path: Path) -> Path:
    """Give a file or folder another name, beside where it was; returns that."""
    number = 1
    while (other := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(other)
    return other


def is_notebook(path: Path) -> bool:
    try:
        return "cells" in json.loads(path.read_bytes())
    except (ValueError, TypeError):
        return False


def fault(stamp: Path, made: dict[str, str]) -> str | None:
    """Why a stage has to run again, or None; what was changed since it ran is set aside.

    Args:
        stamp: the stage's executed notebook.
        made: the checksums of its results, by their paths.
    """
    if stamp.exists() and not is_notebook(stamp):
        set_aside(stamp)
        return f"{stamp.relative_to(ROOT)} is damaged"
    begun_again = stamp.with_suffix(".partial.ipynb").exists()
    since = stamp.stat().st_mtime if stamp.exists() else 0
    for relative, checksum in made.items():
        path = ROOT / relative
        # A model is its folder.
        whole = path.parent if path.parent.name == "model" else path
        if not path.is_file():
            if whole.is_dir():
                set_aside(whole)
            return f"{relative} is gone"
        status = path.stat()
        trusted = status.st_size > SMALL and status.st_mtime < since
        if trusted or sha256(path) == checksum:
            continue
        if begun_again:  # by the stage itself, which did not come to its end
            return f"{relative} is of a run that did not end"
        if path.is_relative_to(ROOT / "runs"):  # what git keeps, git has
            return f"{relative} was changed, and is kept as {set_aside(whole).name}"
        return f"{relative} was changed"
    return None


def void(profile: str, notebooks: Profile) -> None:
    """Take the stamps of stages whose results are not as they made them, and say which.

    Raises:
        UserError: a result stands there already that no stage has made.
    """
    lines = manifest.read(profile) if paths.manifest(profile).exists() else []
    done = manifest.newest(lines)
    known = {path for line in lines for path in line.get("made", {})}
    for name, parameters in notebooks.items():
        stamp = paths.run(profile) / f"{name}.ipynb"
        line = done.get(name.replace("/", " "))
        if line and (why := fault(stamp, line["made"])):
            print(f"{why}; {name} runs again", file=sys.stderr)
            stamp.unlink(missing_ok=True)
        if stamp.exists() or stamp.with_suffix(".partial.ipynb").exists():
            continue
        if name == "04_plot":
            continue  # figures may be there before: the miniature's are committed
        for path in manifest.results(name.split("/")[0], parameters.model_dump()):
            relative = str(path.relative_to(ROOT))
            if relative not in known:
                raise UserError(
                    f"{relative}: {name} would overwrite this file, and has not made it;"
                    " move it away"
                )


def check_runs() -> None:
    """Can anything be written at all?

    Raises:
        UserError: no, `runs` is no folder.
    """
    try:
        (ROOT / "runs").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"runs: cannot be written ({error.strerror}): it has to be a folder, or a link to one"
        ) from None


def main(profile: str) -> None:
    """Check a profile as a whole; write each notebook's parameters, and the notebooks for make."""
    check_runs()
    notebooks = load_profile(profile)
    with lock.hold(profile, "make"):
        void(profile, notebooks)
        write_parameters(profile, notebooks)
        write_text(paths.run(profile) / "notebooks.mk", makefile(profile, notebooks))


if __name__ == "__main__":
    command(main)
