"""What make runs again: `python -m helpers.run.reruns mini`, before make looks at any stage.

A stage runs again when one of these was changed: its notebook, its parameters, a file that the
parameters name, a file that it reads from an earlier stage, a module that its notebook imports, or
one that such a module imports. Contents count, not times, which a copy or a checkout by git does
not keep: the manifest notes what a stage read, and `set_times` tells make, which goes by times.

What else make needs to know is written to `runs/<profile>/notebooks.mk`, and the parameters, one
file a notebook, to `runs/<profile>/params/`. Where the results of a stage are gone, changed or
damaged, its executed notebook is removed, so that make does not take the stage for done.
"""

import ast
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import yaml

from helpers import paths
from helpers.errors import UserError, command
from helpers.files import sha256, write_text
from helpers.paths import ROOT
from helpers.profile.load import load_profile, load_variants
from helpers.profile.parameters import Parameters
from helpers.profile.schema import Finetune, Grade
from helpers.run import manifest
from helpers.training.recipe import fingerprint

SMALL = 50_000_000  # bytes; larger results are compared only if newer than the stage that made them
# By notebook: `01_generate`, `02_finetune/<variant>`, ...
Profile = dict[str, Parameters]


# ---- the modules that a notebook reaches ----


def imports(notebook: Path) -> set[str]:
    """The names that a notebook's code cells import; of `from a import b`, both `a` and `a.b`.

    Raises:
        UserError: the notebook is damaged, or a cell is not plain Python.
    """
    place = notebook.relative_to(ROOT)
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{place}: damaged, no notebook; git has it as it was") from None
    names = set()
    for source in sources:
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError) as error:  # ValueError: a null byte
            line = (getattr(error, "text", "") or "").strip()
            raise UserError(
                f"{place}: a cell is not plain Python ({error.args[0]}: {line}); it may hold no"
                " magic (%) and no shell command (!), since make reads from it what it imports"
            ) from None
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                module = getattr(node, "module", "")
                names |= {module, *(f"{module}.{alias.name}".strip(".") for alias in node.names)}
    return names


def reached(names: set[str], graph: grimp.ImportGraph) -> list[str]:
    """The files of the modules named and of all that these import, sorted.

    Paths are from the repository's root. The `__init__.py` of a module's rooms belong to it, since
    they are run when it is imported, and so do other files of its name: `ledger.sql`, `ledger.py`.
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


def words_in(value: Any) -> Iterator[str]:
    """All texts in a parameter's value."""
    if isinstance(value, dict):
        for part in value.values():
            yield from words_in(part)
    elif isinstance(value, str) and value:
        yield value


def named_files(parameters: Parameters) -> str:
    """A hash of the files that parameters name: catalog, prompts, topology, a student's folder."""
    sums = []
    for words in words_in(parameters.model_dump(exclude={"profile", "variant", "figures"})):
        place = ROOT / words
        if not os.path.exists(place):  # noqa: PTH110 (`Path.exists` fails on a long sentence)
            continue
        if (place / "config.json").is_file():
            sums.append(fingerprint(str(place)))
        else:
            files = [place, *sorted(place.rglob("*"))]  # a file, or those in a folder
            sums += [sha256(file) for file in files if file.is_file()]
    return hashlib.sha256("".join(sums).encode()).hexdigest()[:16]


def write_parameters(profile: str, notebooks: Profile) -> None:
    """Write one file a notebook where a value in it changed: an edited comment reruns nothing."""
    for name, parameters in notebooks.items():
        values = parameters.model_dump(mode="json")
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        file = paths.run(profile) / f"params/{name}.yaml"
        write_text(file, f"# inputs: {named_files(parameters)}\n{text}")


def makefile(profile: str, notebooks: Profile) -> str:
    """What the Makefile includes: jobs, threads, variants, and the modules of report and stages.

    Names of variants need no quoting: the types of the parameters allow plain names only.
    """
    jobs, cores = load_variants(profile).jobs, manifest.cores()
    jobs = cores if jobs == "auto" else jobs
    graph = grimp.build_graph("helpers", cache_dir=None)
    values = {
        "JOBS": jobs,
        "THREADS": max(1, cores // jobs),
        "TRAINED": " ".join(p.variant for p in notebooks.values() if isinstance(p, Finetune)),
        "GRADED": " ".join(p.variant for p in notebooks.values() if isinstance(p, Grade)),
        "CORPUS": "$(RUN)/corpus.jsonl" if "01_generate" in notebooks else "",
        "REPORT": " ".join(reached({"helpers.run.report"}, graph)),
    }
    for notebook in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        values[notebook.stem] = " ".join(reached(imports(notebook), graph))
    return "".join(f"{name} := {value}\n" for name, value in values.items())


# ---- results that are not what they were ----


def set_aside(path: Path) -> Path:
    """Give a file or folder a new name in the same place; returns its new path."""
    number = 1
    while (other := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(other)
    return other


def fault(stamp: Path, made: dict[str, str], begun_again: bool) -> str | None:
    """Why a stage has to run again, or None. A result that was changed since is set aside.

    Args:
        stamp: the stage's executed notebook.
        made: the checksums of its results, by their paths.
        begun_again: the stage wrote some of them itself, and did not come to its end.
    """
    since = stamp.stat().st_mtime if stamp.exists() else 0
    if since and not re.fullmatch(rb"\{.*\}\s*", stamp.read_bytes(), re.DOTALL):
        return f"{stamp.relative_to(ROOT)} is damaged"
    for relative, checksum in made.items():
        path = ROOT / relative
        what = "is gone"
        if path.is_file():
            status = path.stat()
            trusted = status.st_size > SMALL and status.st_mtime < since
            if trusted or sha256(path) == checksum:
                continue
            what = "was changed"
        if begun_again:
            return f"{relative} is of a run that did not end"
        # Of a model the whole folder is kept. What lies outside of runs/ is in git.
        whole = path.parent if path.parent.name == "model" else path
        if whole.exists() and whole.is_relative_to(ROOT / "runs"):
            what += f" (kept: {set_aside(whole).name})"
        return f"{relative} {what}"
    return None


def void(profile: str, notebooks: Profile, lines: list[dict]) -> None:
    """Remove the executed notebooks of stages whose results were changed, and say which.

    Args:
        lines: the profile's manifest, as `manifest.read` gives it.

    Raises:
        UserError: a result stands there already that no stage has made.
    """
    done = manifest.newest(lines)
    known = {path for line in lines for path in line["made"]}
    for name, parameters in notebooks.items():
        stamp = paths.run(profile) / f"{name}.ipynb"
        begun_again = stamp.with_suffix(".partial.ipynb").exists()
        line = done.get(name.replace("/", " "))
        if line and (why := fault(stamp, line["made"], begun_again)):
            print(f"{why}; {name} runs again", file=sys.stderr)
            stamp.unlink(missing_ok=True)
        if stamp.exists() or begun_again or name == "04_plot":
            continue  # figures may be there before: the miniature's are committed
        for path in manifest.results(name.split("/")[0], parameters.model_dump()):
            relative = str(path.relative_to(ROOT))
            if relative not in known:
                raise UserError(
                    f"{relative}: {name} would overwrite this file, and has not made it;"
                    " move it away"
                )


def set_times(profile: str, notebooks: Profile, lines: list[dict]) -> None:
    """Tell make which finished stages have to run again, by the times of their executed notebooks.

    Make runs a stage again if its executed notebook is older than a file that it read. So where all
    these files are as the manifest notes them, the notebook is made newer than they are. Where one
    was changed or is gone, the notebook is made older than any file, and the user is told.

    A stage whose line in the manifest does not say what it read keeps its time.
    """
    done = manifest.newest(lines)
    for name in notebooks:
        stamp = paths.run(profile) / f"{name}.ipynb"
        read = done.get(name.replace("/", " "), {}).get("read")
        if not read or not stamp.exists():
            continue
        if change := manifest.change(read):
            print(f"{change}; {name} runs again", file=sys.stderr)
            os.utime(stamp, (0, 0))  # 1970: older even than an edit that carries an old time
        elif stamp.stat().st_mtime <= max((ROOT / path).stat().st_mtime for path in read):
            stamp.touch()


def main(profile: str) -> None:
    """Check a profile as a whole; write each notebook's parameters, and the notebooks for make."""
    notebooks = load_profile(profile)
    lines = manifest.read(profile) if paths.manifest(profile).exists() else []
    void(profile, notebooks, lines)
    write_parameters(profile, notebooks)
    set_times(profile, notebooks, lines)
    write_text(paths.run(profile) / "notebooks.mk", makefile(profile, notebooks))


if __name__ == "__main__":
    command(main)
