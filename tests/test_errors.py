"""Modules that run as commands: wrong arguments and a user's mistakes end in one line, never in a traceback."""

import subprocess
import sys

import pytest

from helpers.paths import ROOT


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("chat.ledger", "profile"),
        ("run.manifest", "profile"),
        ("run.overview", "profile"),
        ("run.report", "profile"),
        ("run.reruns", "profile"),
        ("results.findings", "path"),
    ],
)
def test_a_mistake_is_one_line(module, name):
    for arguments, said in (
        ([], f"usage: python -m helpers.{module} <{name}>"),
        (["nowhere"], "nowhere"),
    ):
        ended = subprocess.run(
            [sys.executable, "-m", f"helpers.{module}", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 1
        assert said in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert not (ROOT / "runs/nowhere").exists()
