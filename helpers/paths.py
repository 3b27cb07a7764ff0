"""Where everything is: the repository's root and the files of a run."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(profile: str) -> Path:
    """The folder of everything a profile's run makes; never committed."""
    return ROOT / "runs" / profile


def ledger(profile: str) -> Path:
    """Every request and reply of the run: one file a profile, shared by its processes."""
    return run(profile) / "ledger.sqlite"


def manifest(profile: str) -> Path:
    """What ran, when, on what machine and code, and what it cost: a JSON line a stage."""
    return run(profile) / "manifest.jsonl"


def split(profile: str) -> Path:
    """Which skills and topics are for training and which held out, a JSON line a setting."""
    return run(profile) / "split.jsonl"


def corpus(profile: str) -> Path:
    """D(1), D(2), D(3): all texts that were written, kept and dropped, one JSON line each."""
    return run(profile) / "corpus.jsonl"


def dataset(profile: str) -> Path:
    """The kept texts with a card, for the hub and for `datasets.load_dataset`."""
    return run(profile) / "dataset"


def training(profile: str, variant: str) -> Path:
    """A training run: recipe, log, checkpoints, and the final model in `model/`."""
    return run(profile) / "training" / variant


def grades(profile: str, variant: str) -> Path:
    """The graded answers of one model, one JSON line a generation."""
    return run(profile) / "grades" / f"{variant}.jsonl"


def serving(profile: str, variant: str) -> Path:
    """What the server of a model said."""
    return run(profile) / "serving" / f"{variant}.txt"
