"""SIGKILL at random moments of generating and grading: nothing is lost, nothing changes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from helpers import corpus
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.judge.grade import grade
from helpers.paths import ROOT
from helpers.profile import load
from helpers.task.catalog import training_queries
from helpers.world.endpoint import Rates, complete
from tests.faults.server import Server

AT_ONCE = 8


class WorldServer(Server):
    """The embedded teacher and judge behind a network, and how often each request was paid."""

    def __init__(self):
        super().__init__(latency=0.02)
        self.paid = Counter()

    def completion(self, body, fault):
        with self.lock:
            self.paid[json.dumps(body, sort_keys=True)] += 1
        return complete(body, Rates())[1]


def profile(url):
    where = {"base_url": url, "concurrency": AT_ONCE}
    endpoints = {
        "teacher": Endpoint(model="teacher", **where),
        "judge": Endpoint(model="judge", takes_n=False, **where),
    }
    return load.load_profile("smoke")["01_generate"].model_copy(
        update={"texts": {"2": 20, "3": 20}, **endpoints}
    )


def generated(url, path):
    """What 01_generate does."""
    return corpus.build(profile(url), Ledger(path))


def graded(url, path, records):
    """What 03_grade does with answers: here the corpus's texts, put to other queries."""
    p = profile(url)
    queries = list(islice(training_queries(p.pools()["I"], 3, seed=p.seed, avoid=set()), 30))
    texts = [record["text"] for record in records[:30]]
    graded = grade(queries, texts, p.pack(), p.judge, Ledger(path), gradings=3, rules=p.rules())
    return [[points.numbers for points in g.gradings] for g in graded]


def killed(folder, kills):
    """Work killed `kills` times while it generates, and while it grades, beside other work."""
    with WorldServer() as server:
        records = generated(server.url, folder / "straight.sqlite")
        generating = server.billed
        straight = [records, graded(server.url, folder / "straight.sqlite", records)]
        whole = server.billed
    moments = sorted(random.sample(range(5, generating), kills))
    moments += sorted(random.sample(range(generating, whole - 10), kills))
    with WorldServer() as server:
        for moment in moments:
            command = [
                sys.executable,
                "-m",
                "tests.faults.test_killed",
                server.url,
                str(folder / "killed.sqlite"),
            ]
            child = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stderr=subprocess.PIPE,
                text=True,
            )
            deadline = time.monotonic() + 60
            while (
                len(server.paid) < moment and child.poll() is None and time.monotonic() < deadline
            ):
                time.sleep(0.002)
            child.send_signal(signal.SIGKILL)
            _, said = child.communicate()
            assert child.returncode == -signal.SIGKILL, said
            server.settle()
        ledger = Ledger(folder / "killed.sqlite")
        stored = {
            json.dumps(json.loads(b), sort_keys=True)
            for (b,) in ledger.db.execute("select body from attempt where state = 'replied'")
        }
        before = server.paid.copy()
        assert len(before) - len(stored) <= AT_ONCE * len(moments), "more lost than was in flight"
        again = [generated(server.url, ledger.path)]
        again.append(graded(server.url, ledger.path, again[0]))
        assert json.dumps(again) == json.dumps(straight)
        assert not [body for body in stored if server.paid[body] > before[body]], (
            "a stored reply was paid again"
        )
        assert whole <= server.billed <= whole + AT_ONCE * len(moments)
        assert max(before.values()) <= 1 + len(moments)


def test_killed_work_goes_on(tmp_path):
    killed(tmp_path, 3)


@pytest.mark.slow
def test_work_that_is_killed_forty_times_goes_on(tmp_path):
    killed(tmp_path, 20)


if __name__ == "__main__":
    address, file = sys.argv[1], Path(sys.argv[2])
    graded(address, file, generated(address, file))
