"""A profile to break."""

import shutil

import pytest

from helpers import paths
from helpers.paths import ROOT


@pytest.fixture
def profile():
    """A copy of the smoke profile; gone afterwards."""
    folder = ROOT / "params/broken-for-test"
    shutil.copytree(ROOT / "params/smoke", folder, dirs_exist_ok=True)
    yield folder
    shutil.rmtree(folder)
    shutil.rmtree(paths.run(folder.name), ignore_errors=True)
