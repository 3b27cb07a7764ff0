"""What ran, when, on what, and what it made: one JSON line in `runs/<profile>/manifest.jsonl` for every stage that was executed.

`python -m helpers.run.manifest <profile>` looks whether the files of a run are still those that its stages made.
"""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from helpers import paths
from helpers.chat.ledger import Ledger
from helpers.errors import UserError, command
from helpers.files import sha256
from helpers.paths import ROOT

CODE = (
    "helpers",
    "notebooks",
    "params",
    "Makefile",
    "requirements.txt",
)  # what decides a result; a run rewrites `figures/` itself


def said_by(*command: str) -> str | None:
    """What a command prints, or None where it is missing or fails."""
    try:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str | None]:
    """Python and the direct dependencies, as they are installed."""
    names = re.findall(r"^([\w-]+)", (ROOT / "requirements.txt").read_text(), re.M)
    found = {d.name.lower(): d.version for d in importlib.metadata.distributions() if d.name}
    return {"python": platform.python_version(), **{n: found.get(n.lower()) for n in names}}


def machine() -> dict:
    """Processor, cores this process may use, GPUs; without loading torch for it."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else None
    name = (
        named[1]
        if named
        else said_by("sysctl", "-n", "machdep.cpu.brand_string")
        or platform.processor()
        or platform.machine()
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = (
        said_by("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
        if shutil.which("nvidia-smi")
        else None
    )
    return {
        "system": platform.platform(),
        "processor": name,
        "cores": cores,
        "gpus": gpus.splitlines() if gpus else [],
    }


def asked(profile: str, run: str) -> list[dict]:
    """What a run of `helpers.run.stage` asked and what it cost, by stage and model, from the ledger.

    `dollars` is null where a price is unknown; attempts that brought no reply count with the most they may have cost.
    """
    if not paths.ledger(profile).exists():
        return []
    table, rows = Ledger(paths.ledger(profile)).summary(run), []
    for (stage, model), some in table.groupby(["role", "model"]):
        replied = some[some.state == "replied"]
        row = {
            "stage": stage,
            "model": model,
            "attempts": int(some.attempts.sum()),
            "replies": int(replied.attempts.sum()),
        }
        row |= {
            name: int(some[name].fillna(0).sum()) for name in ("prompt_tokens", "completion_tokens")
        }
        rows.append(
            {
                **row,
                "dollars": None
                if some.dollars.isna().any()
                else round(float(some.dollars.sum()), 6),
            }
        )
    return rows


def results(stage: str, parameters: dict) -> list[Path]:
    """The files that a stage with these parameters makes, as far as they are there; none for a notebook that is no stage."""
    profile, variant = parameters["profile"], parameters.get("variant", "")
    match stage:
        case "01_generate":
            made = [paths.split(profile), paths.corpus(profile)]
        case "02_finetune":
            made = sorted((paths.training(profile, variant) / "model").glob("*"))
        case "03_grade":
            made = [paths.grades(profile, variant)]
        case "04_plot":
            made = [
                p
                for p in sorted((ROOT / parameters["figures"]).glob("*"))
                if p.suffix in (".csv", ".gz", ".png", ".svg")
            ]
        case _:
            made = []
    return [path for path in made if path.is_file()]


def note(
    profile: str,
    run: str,
    *,
    notebook: str,
    started: float,
    state: str,
    sentence: str = "",
    made: Sequence[Path] = (),
) -> None:
    """Append the line of a stage that has ended.

    Args:
        run: what the ledger calls it.
        started: Unix time.
        state: done, failed or interrupted; `sentence` says why.
        made: files whose checksums are noted.

    Raises:
        UserError: the manifest cannot be written.
    """
    commit, changed = (
        said_by("git", "rev-parse", "HEAD"),
        said_by("git", "status", "--porcelain", "--", *CODE),
    )
    try:
        money = asked(profile, run)
    except UserError as error:
        money = str(error)
    line = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "notebook": notebook,
        "state": state,
        **({"sentence": sentence} if sentence else {}),
        "asked": money,
        "made": {str(path.relative_to(ROOT)): sha256(path) for path in made},
        "commit": commit,
        "changed": None if changed is None else bool(changed),
        "versions": versions(),
        "machine": machine(),
    }
    path = paths.manifest(profile)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(
            path, "a", encoding="utf-8"
        ) as file:  # one write: stages that end together do not mix their lines
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror})") from None


def read(profile: str) -> list[dict]:
    """The lines of a profile's manifest, oldest first.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = paths.manifest(profile)
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; nothing has run under PROFILE={profile}") from None
    except ValueError as e:
        raise UserError(f"{path}: a line is damaged ({e}); mend it or move the file away") from None


def newest(lines: list[dict]) -> dict[str, dict]:
    """The last line of each stage that was done, by its name, in the order of the names."""
    done = {line["notebook"]: line for line in lines if line["state"] == "done"}
    return dict(sorted(done.items()))


def main(profile: str) -> None:
    """Compare the files of a run with the checksums of the stages that made them.

    Raises:
        UserError: a file is gone or is another one.
    """
    stages = newest(read(profile))
    noted = [
        (name, ROOT / path, known)
        for name, line in stages.items()
        for path, known in line.get("made", {}).items()
    ]
    gone = [
        f"{path.relative_to(ROOT)}, which {name} made, is gone"
        for name, path, _ in noted
        if not path.is_file()
    ]
    other = [
        f"{path.relative_to(ROOT)} is not as {name} made it"
        for name, path, known in noted
        if path.is_file() and sha256(path) != known
    ]
    if gone or other:
        raise UserError("; ".join(gone + other))
    print(f"{len(noted)} files of {len(stages)} stages are as they were made")


if __name__ == "__main__":
    command(main)
