"""One make a run: what it starts holds the lock too, and who comes second is told of it."""

import shutil
import subprocess
import sys

import pytest

from helpers import paths
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.run import lock

PROFILE = "lock-for-test"
# Stands for make: it says that it holds the lock, and has a stage that outlives it.
MAKE = ["sh", "-c", "sleep 60 & echo held $!; wait"]


@pytest.fixture
def start():
    """Starts processes that want the lock, and ends them."""
    shutil.rmtree(paths.run(PROFILE), ignore_errors=True)
    processes = []

    def hold() -> subprocess.Popen:
        command = [sys.executable, "-m", "helpers.run.lock", PROFILE, *MAKE]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(command, cwd=ROOT, **pipes))
        return processes[-1]

    yield hold
    for process in processes:
        process.kill()
        process.wait()
    shutil.rmtree(paths.run(PROFILE), ignore_errors=True)


def test_a_second_make_is_refused_as_long_as_anything_of_the_first_lives(start):
    first = start()
    word, stage = first.stdout.readline().split()
    assert word == "held"
    for _ in "alive", "killed":
        refused = start()
        assert refused.wait() == 1
        message = refused.stderr.read()
        assert f"runs/{PROFILE} is in use by process {first.pid} on " in message
        assert "Traceback" not in message
        first.kill()
        first.wait()
    subprocess.run(["kill", stage], check=True)
    later = start()
    word, stage = later.stdout.readline().split()
    assert word == "held", "free once nobody holds it"
    subprocess.run(["kill", stage], check=True)


def test_a_run_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("file", "loop"):
        monkeypatch.setattr(paths, "run", lambda profile, name=name: tmp_path / name / profile)
        with pytest.raises(UserError, match=r"lock: cannot be written .*; nothing has run"):
            lock.main(PROFILE, "true")


def test_many_at_once_are_one(start):
    """Whoever is first, no other is beside it."""
    processes = [start() for _ in range(6)]
    lines = [process.stdout.readline().split() for process in processes]
    held = [line[1] for line in lines if line]
    assert len(held) == 1
    subprocess.run(["kill", *held], check=True)
