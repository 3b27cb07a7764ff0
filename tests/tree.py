"""A copy of the tree, as a fresh clone is; and `make` in it, as a user calls it."""

import os
import shutil
import subprocess
from pathlib import Path

from helpers.paths import ROOT

# What a clone has not, and what other tests write to the tree meanwhile.
OTHERS = ("*-for-test", "*-in-a-test*", ".ipynb_checkpoints")
LEFT_OUT = (".git", ".venv*", "runs", "figures", "__pycache__", ".*_cache", *OTHERS)


def copy_of_the_tree(target: Path) -> Path:
    """Without runs, and with this venv."""
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (target / ".venv").symlink_to(ROOT / ".venv")
    return target


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Not as a make inside the make that runs these tests."""
    of_make = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")
    environment = {name: value for name, value in os.environ.items() if name not in of_make}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
    )
