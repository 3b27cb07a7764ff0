"""One make a run's folder: who works holds it, and who comes second is told who that is."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers import paths
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.run import lock

PROFILE = "lock-for-test"
HOLD = (
    "import sys, time; from helpers.run import lock;"
    f" held = lock.hold({PROFILE!r}, sys.argv[1]); print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def start():
    """Starts processes that hold the lock for a make, and ends them."""
    shutil.rmtree(paths.run(PROFILE), ignore_errors=True)
    processes = []

    def hold(make: str, label: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, label],
            cwd=ROOT,
            env={**os.environ, lock.MAKE: make},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        process.line = process.stdout.readline()
        return process

    yield hold
    for process in processes:
        process.kill()
        process.wait()
    shutil.rmtree(paths.run(PROFILE), ignore_errors=True)


def test_stages_of_one_make_run_side_by_side_and_those_of_another_do_not(start, monkeypatch):
    first, second = start("1", "02_finetune k1-s0"), start("1", "02_finetune k12-s0")
    assert first.line == second.line == "held\n"
    refused = start("2", "03_grade base")
    assert refused.wait() == 1
    message = refused.stderr.read().strip().splitlines()[-1]
    for worker, label in ((first, "k1-s0"), (second, "k12-s0")):
        assert f"02_finetune {label} (process {worker.pid} on " in message
    first.kill()
    first.wait()
    monkeypatch.setenv(lock.MAKE, "2")
    with pytest.raises(UserError, match=f"in use: 02_finetune k12-s0 .process {second.pid} on "):
        lock.hold(PROFILE, "03_grade base")
    second.kill()
    second.wait()
    with lock.hold(PROFILE, "03_grade base"):
        assert start("1", "again").wait() == 1
    assert start("1", "again").line == "held\n", "free once nobody holds it"


def test_a_run_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("file", "loop"):
        monkeypatch.setattr(paths, "run", lambda profile, name=name: tmp_path / name / profile)
        with pytest.raises(UserError, match=r"lock: cannot be written .*; nothing has run"):
            lock.hold(PROFILE, "make")


def test_many_at_once_are_all_of_one_make(start):
    """Whoever is first, no other make is beside it."""
    with ThreadPoolExecutor(6) as at_once:
        processes = at_once.map(start, "121212", ["stage"] * 6)
        held = {make for make, p in zip("121212", processes, strict=True) if p.line}
    assert len(held) == 1
