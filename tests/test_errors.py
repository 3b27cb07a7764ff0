"""A user's mistakes end in one line, never in a traceback: on the command line and in Jupyter."""

import subprocess
import sys

import pytest

from helpers.paths import ROOT


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("chat.ledger", "profile"),
        ("run.manifest", "profile"),
        ("run.profile_plan", "profile"),
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


def test_what_may_be_left_out_is_in_brackets():
    """And where one is missing, that is said."""
    for module, given, usage in (
        ("results.findings", [], "<path> [<own>]"),
        ("run.lock", ["mini"], "<profile> <program> [<arguments> ...]"),
    ):
        command = [sys.executable, "-m", f"helpers.{module}", *given]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert ended.stderr == f"usage: python -m helpers.{module} {usage}\n"


def test_jupyter_shows_one_line_too():
    shell = [sys.executable, "-m", "IPython", "--colors=NoColor", "-c"]
    source = "from helpers.errors import UserError; raise UserError('mix: 5 texts asked for')"
    shown = subprocess.run([*shell, source], cwd=ROOT, capture_output=True, text=True)
    assert (shown.stdout + shown.stderr).strip() == "mix: 5 texts asked for"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("KeyboardInterrupt()", "interrupted"),
        ("OSError(28, 'No space left', 'a.txt')", "a.txt: No space left; mend that and run again"),
    ],
)
def test_what_the_machine_does_is_a_line(error, sentence):
    source = f"from helpers.errors import command\ndef main(): raise {error}\ncommand(main)"
    ended = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.strip() == sentence
