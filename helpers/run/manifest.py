"""What ran, when, on what, and what it made: a line a stage in `runs/<profile>/manifest.jsonl`.

Failed stages have a line too. `python -m helpers.run.manifest <profile>` looks whether the files of
a run are still those that its stages made.
"""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from helpers import paths
from helpers.chat.ledger import Ledger
from helpers.errors import UserError, command
from helpers.files import sha256
from helpers.paths import ROOT

# What decides a result, for git to compare; a run itself rewrites `figures/`.
CODE = ("helpers", "notebooks", "params", "Makefile", "requirements.txt")


def output_of(*program: str) -> str | None:
    """What a program prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(
            program, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str | None]:
    """Python and the direct dependencies, as they are installed."""
    names = re.findall(r"^([\w-]+)", (ROOT / "requirements.txt").read_text(), re.M)
    installed = {
        package.name.lower(): package.version
        for package in importlib.metadata.distributions()
        if package.name
    }
    return {"python": platform.python_version(), **{n: installed.get(n.lower()) for n in names}}


def processor() -> str:
    """Its name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.M)
        if named:
            return named[1]
    named = output_of("sysctl", "-n", "machdep.cpu.brand_string")
    return named or platform.processor() or platform.machine()


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict:
    """System, processor, cores that this process may use, GPUs; without loading torch for it."""
    gpus = output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "system": platform.platform(),
        "processor": processor(),
        "cores": cores(),
        "gpus": gpus.splitlines() if gpus else [],
    }


def requests_of(profile: str, run: str) -> list[dict]:
    """What one run of a stage asked and what it cost, by role and model, from the ledger.

    `dollars` is null where a price is unknown; attempts that brought no reply count with the most
    they may have cost.
    """
    if not paths.ledger(profile).exists():
        return []
    table = Ledger(paths.ledger(profile)).summary(run)
    rows = []
    for (role, model), states in table.groupby(["role", "model"]):
        replied = states[states.state == "replied"]
        priced = states.dollars.notna().all()
        rows.append(
            {
                "role": role,
                "model": model,
                "attempts": int(states.attempts.sum()),
                "replies": int(replied.attempts.sum()),
                "prompt_tokens": int(states.prompt_tokens.sum()),
                "completion_tokens": int(states.completion_tokens.sum()),
                "dollars": round(float(states.dollars.sum()), 6) if priced else None,
            }
        )
    return rows


def results(stage: str, parameters: dict) -> list[Path]:
    """The files that a stage with these parameters makes, as far as they are there."""
    profile, variant = parameters["profile"], parameters.get("variant", "")
    match stage:
        case "01_generate":
            texts = sorted(paths.dataset(profile).glob("*.jsonl"))
            files = [paths.split(profile), paths.corpus(profile), *texts]
        case "02_finetune":
            model = sorted((paths.training(profile, variant) / "model").glob("*"))
            # The card is written again once the model is graded, and people edit it.
            files = [path for path in model if path.name != "README.md"]
        case "03_grade":
            files = [paths.grades(profile, variant)]
        case "04_plot":
            kinds = (".csv", ".gz", ".png", ".svg")
            folder = sorted((ROOT / parameters["figures"]).glob("*"))
            files = [path for path in folder if path.suffix in kinds]
        case _:
            files = []  # a notebook that is no stage
    return [path for path in files if path.is_file()]


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
        notebook: the stage and, after a space, its variant.
        started: Unix time.
        state: done, failed or interrupted; `sentence` says why.
        made: files whose checksums are noted.

    Raises:
        UserError: the manifest cannot be written.
    """
    try:
        requests = requests_of(profile, run)
    except UserError as error:
        requests = str(error)
    changes = output_of("git", "status", "--porcelain", "--", *CODE)
    line = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "notebook": notebook,
        "state": state,
        "asked": requests,
        "made": {str(path.relative_to(ROOT)): sha256(path) for path in made},
        "commit": output_of("git", "rev-parse", "HEAD"),
        "changed": None if changes is None else bool(changes),
        "versions": versions(),
        "machine": machine(),
    }
    if sentence:
        line["sentence"] = sentence
    path = paths.manifest(profile)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        # One write: stages that end together do not mix their lines. One that was killed while
        # it wrote left half a line, which ends here.
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n" * cut + json.dumps(line, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def read(profile: str) -> list[dict]:
    """The lines of a profile's manifest, oldest first; of a damaged one its number is printed.

    Raises:
        UserError: there is no manifest, or it cannot be read.
    """
    path = paths.manifest(profile)
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; nothing has run under PROFILE={profile}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            print(f"{path}: line {number} is damaged and left out", file=sys.stderr)
    return lines


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
    number, gone, other = 0, [], []
    for name, line in stages.items():
        for relative, checksum in line.get("made", {}).items():
            number += 1
            if not (ROOT / relative).is_file():
                gone.append(f"{relative}, which {name} made, is gone")
            elif sha256(ROOT / relative) != checksum:
                other.append(f"{relative} is not as {name} made it")
    if gone or other:
        raise UserError("; ".join(gone + other))
    print(f"{number} files of {len(stages)} stages are as they were made")


if __name__ == "__main__":
    command(main)
