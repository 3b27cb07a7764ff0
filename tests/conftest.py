"""For all tests: an interrupt interrupts, also in the background of a shell, which ignores it."""

import shutil
import signal

import pytest

from helpers import paths
from helpers.paths import ROOT
from tests.tree import copy_of_the_tree, make

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


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory):
    """A copy of the tree in which smoke has been reproduced: to be looked at, or copied."""
    folder = copy_of_the_tree(tmp_path_factory.mktemp("reproduced") / "a")
    made = make(folder, "reproduce", "PROFILE=smoke")
    assert made.returncode == 0, made.stderr
    return folder
