"""A training run: its recipe, identity and log ([ZK24] section 3). Nothing here needs torch."""

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path

import pandas as pd

from helpers.errors import UserError
from helpers.files import sha256, write_text
from helpers.paths import ROOT
from helpers.training.hub import at_revision

# Environment variable, `machine:process`: a training ends once its starter is gone.
STARTED_BY = "TRAINING_STARTED_BY"
# The code that decides the final weights.
CODE = ("attention.py", "data.py", "parallel.py", "train.py")
# What of the texts is counted, in `data.json`.
COUNTS = ("texts", "dropped", "cut", "tokens", "labelled")
KINDS = (".json", ".jinja", ".model")  # of a model's files beside its weights
# Larger files are read once: a student's weights take up to a minute.
LARGE = 64 * 2**20
CHECKSUMS = ROOT / "runs/checksums.json"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a training run is made of; `recipe.json` holds one.

    The defaults are those of [ZK24]: 4000 steps, batch 64, Adam, 64 steps of linear warm-up, then
    constant 2e-5, at most 1024 tokens.
    """

    student: str  # folder or hub name of the model to start from
    data: str  # JSON lines, each {"messages": [...]}
    out: str  # folder for checkpoints, the log and the final model
    steps: int = 4000  # optimizer steps of the global batch
    batch: int = 64  # texts per step, over all processes
    learning_rate: float = 2e-5
    warmup: int = 64  # steps of linear warm-up
    decay: bool = False  # after warm-up: linear to zero instead of constant
    max_tokens: int = 1024  # of a chat
    longer: str = "drop"  # what becomes of longer chats: "drop" or "cut"; both are counted
    turns: str = "last"  # which assistant turns are learned: "last" or "all"
    clip: float = 0.0  # largest gradient norm; 0 means no clipping
    seed: int = 0
    micro_tokens: int = 8192  # padded tokens per process and forward pass
    save_every: int = 500  # steps between checkpoints
    save_minutes: float = 0.0  # and no longer than this between two; 0 means by steps alone
    export_dtype: str = "bfloat16"  # of the final weights on disk
    precision: str = "bf16"  # of the computation, bf16 (fp32 where there is none) or no
    lora: dict | None = None  # rank, alpha, target; None trains all weights
    compile: bool = False  # each layer


def read_json(path: Path) -> dict:
    """A JSON file of ours; an empty object where it is missing or damaged."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict) -> None:
    """Write JSON; a kill leaves the old file or the new one, never half of one."""
    write_text(path, json.dumps(value, indent=2))


# Students: what identifies them.


def checksum(path: Path) -> str:
    """SHA-256 of a file.

    A large one is not read again while its size and the time of its last change (ctime, which no
    program can set back) are as they were.
    """
    stat = path.stat()
    if stat.st_size < LARGE:
        return sha256(path)
    state = f"{path.resolve()} {stat.st_size} {stat.st_ctime_ns}"
    known = read_json(CHECKSUMS)
    if state not in known:
        known[state] = sha256(path)
        write_json(CHECKSUMS, known)
    return known[state]


def checksums(folder: Path) -> dict[str, str]:
    """The checksum of each file that decides what a model is, by name, the weights first."""
    files = sorted(folder.glob("*.safetensors"))
    files += sorted(path for path in folder.glob("*.*") if path.suffix in KINDS)
    return {path.name: checksum(path) for path in files if path.name != "identity.json"}


def edited(folder: Path) -> list[str]:
    """Names of files that are other than a training left them, by the folder's `identity.json`."""
    written = read_json(folder / "identity.json").get("files")
    if not written:
        return []
    return sorted({name for name, _ in written.items() ^ checksums(folder).items()})


def fingerprint(student: str) -> str:
    """What a student is: the identity of the run that made it, or a hash of its files.

    These are weights, tokenizer, chat template and settings. A hub name stands for itself.

    Raises:
        FileNotFoundError: `student` looks like a folder and is none, or holds no weights.
    """
    folder = Path(student)
    identity = read_json(folder / "identity.json").get("identity")
    if identity and not edited(folder):
        return identity
    files = checksums(folder)
    if any(name.endswith(".safetensors") for name in files):
        return hashlib.sha256("".join(files.values()).encode()).hexdigest()
    if student.startswith((".", "/")) or folder.exists():
        raise FileNotFoundError(f"{student}: no such folder, or no *.safetensors in it")
    return at_revision(student)


# Runs: what identifies them.


def run_identity(recipe: Recipe) -> str:
    """A hash of what decides the final weights: settings, data, and the weights started from."""
    settings = dataclasses.asdict(recipe)
    for name in ("out", "data", "student", "save_every", "save_minutes"):
        del settings[name]
    for name in ("lora", "compile"):  # added later: left out where unused, older identities stay
        if not settings[name]:
            del settings[name]
    decides = json.dumps(settings, sort_keys=True)
    parts = f"{decides}\n{sha256(Path(recipe.data))}\n{fingerprint(recipe.student)}"
    return hashlib.sha256(parts.encode()).hexdigest()


def begun(out: Path) -> str | None:
    """The identity of the run that the log in a folder is of."""
    return read_json(out / "data.json").get("identity")


def is_finished(recipe: Recipe) -> bool:
    """Does `out` hold the model of exactly this run?

    Raises:
        UserError: it does, but somebody changed the model afterwards.
    """
    model = Path(recipe.out) / "model"
    identity = run_identity(recipe)
    if not read_json(model / "identity.json").get("identity") == identity == begun(model.parent):
        return False
    if changed := edited(model):
        raise UserError(
            f"{model}: {', '.join(changed)} changed after the training; put it back, or move the "
            "folder away: the model is trained again, and the moved folder can be a student"
        )
    return True


def code() -> dict[str, str]:
    """The checksum of each file of the code that trains."""
    return {name: sha256(Path(__file__).with_name(name)) for name in CODE}


def note_identity(model: Path, identity: str) -> None:
    """Write `identity.json` into a finished model's folder: the run, its files, its code."""
    noted = {"identity": identity, "files": checksums(model), "code": code()}
    write_json(model / "identity.json", noted)


def other_code(out: Path) -> str:
    """A sentence if the code that trains has changed since the model was made, else nothing.

    Such a model is kept: a training may have taken days.
    """
    model = out / "model"
    then = read_json(model / "identity.json").get("code", {})
    changed = sorted({name for name, _ in then.items() - code().items()})
    if not changed:
        return ""
    return (
        f"{out.name} was trained with another {' and '.join(changed)} than today's and is not "
        f"trained again; remove {model} for that"
    )


# Logs.


def read_log(out: Path) -> list[dict]:
    """The training log so far, a row a step; a line that is still being written is left out.

    Raises:
        UserError: a line is not one that a training writes.
    """
    log = out / "log.jsonl"
    if not log.exists():
        return []
    *lines, _ = log.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and row.keys() >= {"step", "loss"}:
                rows.append(row)
        if len(rows) < number:
            raise UserError(f"{log}: line {number} is damaged; take it out, the rest is kept")
    return rows


def read_logs(folders: dict[str, Path]) -> pd.DataFrame:
    """The logs of several variants: model (the variant without its seed), seed, step, loss, ..."""
    logs = []
    for variant, folder in folders.items():
        model, _, seed = variant.rpartition("-s")
        logs.append(pd.DataFrame(read_log(folder)).assign(model=model, seed=int(seed)))
    return pd.concat(logs)


def facts(out: Path) -> dict:
    """What the training saw.

    Texts, dropped and cut ones (longer than max_tokens), tokens, labelled tokens, bf16, processes.

    Raises:
        UserError: its notes (`data.json`) are missing or damaged.
    """
    data = read_json(out / "data.json")
    if missing := {*COUNTS, "bf16", "processes"} - data.keys():
        raise UserError(
            f"{out / 'data.json'}: missing or damaged ({', '.join(sorted(missing))}); move"
            f" {out.name} away and run 02_finetune again: it is trained anew"
        )
    data.pop("identity", None)
    return data
