"""constraints.txt: the whole environment, at the pins of requirements.txt."""

import re

from helpers.paths import ROOT


def pins(name: str) -> dict[str, str]:
    """Package and version of each line, extras and comments left out."""
    found = re.findall(r"^([\w.-]+)(?:\[\w+\])?==([\w.]+)", (ROOT / name).read_text(), re.M)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in found}


def test_constraints_hold_every_pin():
    whole = pins("constraints.txt")
    assert pins("requirements.txt").items() <= whole.items()
    assert len(whole) > 100, "what the direct dependencies need stands there too"
    assert not [package for package in whole if package.startswith("nvidia")]
