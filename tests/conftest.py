"""For all tests: an interrupt interrupts, also in the background of a shell, which ignores it."""

import shutil
import signal

import pytest

from helpers import paths
from helpers.paths import ROOT

signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def copied():
    """Copies a profile's folder under another name; gone afterwards, with its run."""
    folders = []

    def copy(profile, name):
        folder = ROOT / "params" / name
        folders.append(folder)
        return shutil.copytree(ROOT / "params" / profile, folder, dirs_exist_ok=True)

    yield copy
    for folder in folders:
        shutil.rmtree(folder)
        shutil.rmtree(paths.run(folder.name), ignore_errors=True)
