"""What ran, when, on what, and what it made: a line a stage in `runs/<profile>/manifest.jsonl`.

Failed stages have a line too. `python -m helpers.run.manifest <profile>` looks whether the files of
a run are still those that its stages made.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from helpers import paths
from helpers.chat.ledger import Ledger
from helpers.errors import UserError, command
from helpers.files import sha256
from helpers.paths import ROOT

# What decides a result, for git to compare; a run itself rewrites `figures/`.
CODE = ("helpers", "notebooks", "params", "Makefile", "requirements.txt")
# Where a stage's seconds go: a cell tagged `seconds-asking` is asking.
PARTS = ("starting", "asking", "training", "grading")
# The files that a stage makes: in the run's folder, those of 04_plot in the folder of its figures.
MADE = {
    "01_generate": ("split.jsonl", "corpus.jsonl", "dataset/*.jsonl"),
    "02_finetune": ("training/{variant}/model/*",),
    "03_grade": ("grades/{variant}.jsonl",),
    "04_plot": ("*.csv", "*.png", "*.svg"),
}
CARD = "README.md"  # is written again once the model is graded, and people edit it


def output_of(*program: str) -> str | None:
    """What a program prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(
            program, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Python and the direct dependencies, as they are installed."""
    names = re.findall(r"^([\w-]+)", (ROOT / "requirements.txt").read_text(), re.M)
    installed = {name: importlib.metadata.version(name) for name in names}
    return {"python": platform.python_version(), **installed}


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict:
    """System, processor, cores that this process may use, GPUs; without loading torch for it."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    gpus = output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "system": platform.platform(),
        "processor": named[1] if named else platform.processor() or platform.machine(),
        "cores": cores(),
        "gpus": gpus.splitlines() if gpus else [],
    }


def requests_of(profile: str, run: str) -> list[dict]:
    """What one run of a stage asked and what it cost: rows of `Ledger.summary`, unknown as None."""
    if not paths.ledger(profile).exists():
        return []
    return Ledger(paths.ledger(profile)).asked(run)


def results(stage: str, parameters: dict) -> list[Path]:
    """The files that a stage with these parameters makes, as far as they are there."""
    folder = paths.run(parameters["profile"])
    if stage == "04_plot":
        folder = ROOT / parameters["figures"]
    files = []
    for pattern in MADE.get(stage, ()):
        files += sorted(folder.glob(pattern.format(**parameters)))
    return [path for path in files if path.is_file() and path.name != CARD]


def checksums(files: Iterable[Path]) -> dict[str, str]:
    """The checksums of files, by their paths from the repository's root."""
    return {str(path.relative_to(ROOT)): sha256(path) for path in files}


def fate(relative: str, checksum: str) -> str | None:
    """What became of a file since its checksum was noted, or None where it is as it was."""
    path = ROOT / relative
    if not path.is_file():
        return "is gone"
    return None if sha256(path) == checksum else "was changed"


def change(noted: dict[str, str]) -> str | None:
    """What became of the first file that has not the checksum noted, or None."""
    for relative, checksum in noted.items():
        if what := fate(relative, checksum):
            return f"{relative} {what}"
    return None


def note(profile: str, run: str, *, started: float, made: Iterable[Path] = (), **about) -> None:
    """Append the line of a stage that has ended.

    Args:
        run: what the ledger calls it.
        started: Unix time.
        made: files whose checksums are noted.
        about: notebook (the stage and, after a space, its variant), state (done, failed or
            interrupted), sentence (why), parts (seconds of `PARTS`), read (checksums of the files
            that it depends on, as it found them).

    Raises:
        UserError: the manifest cannot be written.
    """
    changes = output_of("git", "status", "--porcelain", "--", *CODE)
    line = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        **about,
        "asked": requests_of(profile, run),
        "made": checksums(made),
        "commit": output_of("git", "rev-parse", "HEAD"),
        "changed": None if changes is None else bool(changes),
        "versions": versions(),
        "machine": machine(),
    }
    path = paths.manifest(profile)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One write: stages that end together do not mix their lines. It begins with a new line,
        # for one that was killed while it wrote left half of its own.
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(line, ensure_ascii=False))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def read(profile: str) -> list[dict]:
    """The lines of a profile's manifest, oldest first.

    Damaged lines, those that `note` does not write, are left out, and their numbers printed.

    Raises:
        UserError: there is no manifest.
    """
    path = paths.manifest(profile)
    if not path.exists():
        raise UserError(f"{path}: no such file; nothing has run under PROFILE={profile}")
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line:
            continue
        with contextlib.suppress(ValueError, RecursionError):
            if is_line(said := json.loads(line)):
                lines.append(said)
                continue
        print(f"{path}: line {number} is damaged and left out", file=sys.stderr)
    return lines


def is_line(said: Any) -> bool:
    """Does a line's JSON hold what others read of it?"""
    if not isinstance(said, dict):
        return False
    kinds = {"notebook": str, "state": str, "made": dict, "asked": list}
    return all(isinstance(said.get(name), kind) for name, kind in kinds.items())


def newest(lines: list[dict]) -> dict[str, dict]:
    """The last line of each stage that was done, by its name, in the order of the names."""
    done = {line["notebook"]: line for line in lines if line["state"] == "done"}
    return dict(sorted(done.items()))


def main(profile: str) -> None:
    """Compare the files of a run with the checksums of the stages that made them.

    Raises:
        UserError: a file is gone or was changed.
    """
    made = {}
    for name, line in newest(read(profile)).items():
        made |= {relative: (name, checksum) for relative, checksum in line["made"].items()}
    wrong = []
    for relative, (name, checksum) in made.items():
        if what := fate(relative, checksum):
            wrong.append(f"{relative}, which {name} made, {what}")
    if wrong:
        raise UserError("; ".join(wrong))
    print(f"{len(made)} files are as the stages made them")


if __name__ == "__main__":
    command(main)
