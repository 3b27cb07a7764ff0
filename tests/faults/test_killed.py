"""SIGKILL at random moments of generating and grading: nothing is lost, nothing changes."""

import json
import random
import signal
import time
from collections import Counter

import pytest

from helpers.chat.ledger import Ledger
from helpers.world.endpoint import Rates, complete
from tests.faults.server import Server
from tests.faults.stages import AT_ONCE, FORKS, generated, graded, work


class WorldServer(Server):
    """The embedded teacher and judge behind a network, and how often each request was paid."""

    def __init__(self):
        super().__init__(latency=0.02)
        self.paid = Counter()

    def completion(self, body, fault):
        with self.lock:
            self.paid[json.dumps(body, sort_keys=True)] += 1
        return complete(body, Rates())[1]


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
            child = FORKS.Process(target=work, args=(server.url, folder / "killed.sqlite"))
            child.start()
            deadline = time.monotonic() + 60
            while len(server.paid) < moment and child.is_alive() and time.monotonic() < deadline:
                time.sleep(0.002)
            child.kill()
            child.join()
            assert child.exitcode == -signal.SIGKILL
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
