"""The chat client under fire: a real client against a server on loopback with seeded faults."""

import asyncio
import contextlib
import gc
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from helpers import progress
from helpers.chat import retries
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Outcome
from helpers.errors import UserError
from helpers.paths import ROOT
from tests.faults.asking import (
    SECRET,
    ask,
    at,
    nowhere_in,
    one_sentence,
    questions,
    states,
    texts,
)
from tests.faults.server import Handler, Server, said


def number(body):
    return int(body["messages"][0]["content"].split()[1])


MIXED = {
    "500": 0.03,
    "429": 0.01,
    "drop_before": 0.01,
    "garbage": 0.005,
    "drop_after": 0.01,
    "truncated": 0.01,
}
MIXED |= {"broken": 0.005, "list": 0.005, "empty": 0.005, "slow": 0.01, "length": 0.005}


def test_ten_percent_faults_lose_nothing(ledger, quick):
    with Server(MIXED, seed=3, latency=0.02) as server:
        many, where = questions(400), at(server, concurrency=50)
        replies = ask(many, where, ledger)
        assert [len(r) for r in replies] == [1] * 400
        assert len({r.text for some in replies for r in some}) == 400
        assert set(server.happened) >= set(MIXED), "a fault that never came proves nothing"
        assert server.billed - 400 == server.paid_and_lost()
        assert sum(states(ledger).values()) == server.received
        assert (
            states(ledger)["replied"]
            == server.billed - server.paid_and_lost() + server.happened["empty"]
        )
        assert states(ledger)["no answer"] == server.happened["broken"] + server.happened["list"]
        asked = server.received
        again = ask(many, where, Ledger(ledger.path))
        assert again == replies
        assert server.received == asked, "a stored reply was asked for again"
    nowhere_in(ledger)


def test_garbage_is_looked_for_again_afterwards(ledger, quick):
    """Also where the run has failed: what is frozen is never collected."""
    with Server(latency=0.01) as server:
        ask(questions(3), at(server), ledger)
        assert gc.get_freeze_count() == 0
    with Server({"401": 1.0}) as server, pytest.raises(UserError):
        ask(questions(3), at(server), ledger)
    assert gc.get_freeze_count() == 0


def test_order_of_replies_is_the_order_of_requests(ledger):
    def late(body, i):
        time.sleep(random.Random(number(body)).random() / 10)
        return f"reply {number(body)}"

    with Server(say=late) as server:
        assert texts(ask(questions(60), at(server), ledger)) == [[f"reply {i}"] for i in range(60)]


def test_what_was_on_its_way_when_the_run_ended_is_stored(ledger):
    """401 at once for some, while others take half a second: paid, so they are waited for."""
    with Server({"401": 0.2}, seed=5, latency=0.5) as server:
        with pytest.raises(UserError, match="was refused"):
            ask(questions(200), at(server, concurrency=16), ledger)
        assert server.busy == 0
        assert server.received == 16
        assert 0 < server.billed < 16
        assert states(ledger)["replied"] == server.billed
        assert "sent" not in states(ledger)


def test_replies_before_the_end_are_stored(ledger, quick):
    with Server({"500": 0.9}, seed=1) as server:
        with pytest.raises(UserError):
            ask(questions(30), at(server, concurrency=4), ledger)
        assert states(ledger)["replied"] == server.billed >= 1
        server.faults = {}
        assert len(ask(questions(30), at(server), ledger)) == 30
        assert states(ledger)["replied"] == server.billed == 30


def test_gradings_come_in_one_request(ledger):
    with Server() as server:
        replies = ask(questions(5, n=3), at(server), ledger)
        assert [len(set(t)) for t in texts(replies)] == [3] * 5
        assert server.received == 5
        assert {(b["n"], b["seed"]) for b in server.bodies} == {(3, 0)}


def choice_named(body, i):
    """Says which choice of which replicate it is."""
    return f"{body['seed']}.{i}"


def test_an_unusable_choice_is_asked_again_alone(ledger):
    with Server(say=choice_named) as server:
        replies = ask(
            questions(1, n=3),
            at(server),
            ledger,
            usable=lambda q, r: r.text not in ("0.1", "3.0"),
        )
        assert texts(replies) == [["0.0", "0.2", "4.0"]]
        assert [(b.get("n"), b["seed"]) for b in server.bodies] == [(3, 0), (None, 3), (None, 4)]


def test_what_is_usable_may_depend_on_the_request(ledger):
    some = questions(3, n=2)
    with Server(say=choice_named) as server:
        replies = ask(some, at(server), ledger, usable=lambda q, r: q is not some[1])
        assert texts(replies) == [["0.0", "0.1"], [], ["0.0", "0.1"]]


def test_an_endpoint_without_n_gets_replicates(ledger):
    with Server(say=choice_named) as server:
        replies = ask(
            questions(1, n=3),
            at(server, takes_n=False),
            ledger,
            usable=lambda q, r: r.text != "1.0",
        )
        assert texts(replies) == [["0.0", "2.0", "3.0"]]
        assert [(b.get("n"), b["seed"]) for b in server.bodies] == [
            (None, 0),
            (None, 1),
            (None, 2),
            (None, 3),
        ]


def test_an_endpoint_that_ignores_n(ledger):
    with Server(say=choice_named, most=1) as server:
        assert texts(ask(questions(1, n=3), at(server), ledger)) == [["0.0", "3.0", "4.0"]]


def test_a_used_up_budget_gives_fewer_replies(ledger):
    def never(q, r):
        return False

    with Server(say=choice_named) as server:
        some = ask(
            questions(1, n=3),
            at(server),
            ledger,
            usable=lambda q, r: r.text == "0.1",
        )
        assert texts(some) == [["0.1"]]
        assert server.received == 1 + 2
    with Server(say=choice_named) as server:
        for _ in range(2):  # the budget holds over runs
            assert ask(questions(2), at(server), ledger, usable=never, re_asks=4) == [[], []]
            assert server.received == 2 * 5


def test_empty_texts_are_answers_and_use_up_re_asks(ledger):
    with Server({"empty": 1}) as server:
        assert ask(questions(2), at(server), ledger) == [[], []]
        assert states(ledger) == {"replied": 6}, "what was paid is kept as it came"
        server.faults = {}
        assert [len(r) for r in ask(questions(2), at(server), ledger, re_asks=3)] == [1, 1]
        assert server.received == 8


NO_ANSWERS = {
    "an error": b'{"error": {"message": "overloaded"}}',
    "nothing": b"",
    "half of it": b'{"choices": [{"message": {"content": "a',
    "a list": b"[1]",
    "no choices": b'{"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}',
    "no message": b'{"choices": [{"message": null}]}',
    "no UTF-8": b'{"choices": [{"message": {"content": "\xff"}}]}',
    "deeply nested": b"[" * 200_000 + b"]" * 200_000,
}


@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_a_200_without_an_answer_is_a_failure_and_its_bytes_are_kept(ledger, quick, priced, kind):
    with Server(raw=lambda body: NO_ANSWERS[kind]) as server:
        with pytest.raises(UserError, match="HTTP 200 without an answer") as failure:
            ask(questions(1), at(server), ledger)
        one_sentence(failure)
        assert states(ledger) == {"no answer": retries.TRANSPORT_TRIES}
        kept = ledger.db.execute("select raw from attempt").fetchall()
        assert kept == [(NO_ANSWERS[kind],)] * retries.TRANSPORT_TRIES
        if kind == "no choices":
            assert ledger.spent() == pytest.approx(6 * (3 * 1.0 + 2 * 2.0) / 1e6)
        else:
            assert ledger.spent() > 6 * 1024 * 2.0 / 1e6, "it may have cost all that was reserved"
        server.raw = None
        assert texts(ask(questions(1), at(server), ledger)) == [[said(server.bodies[0], 0)]]
        assert server.received == retries.TRANSPORT_TRIES + 1, "no re-ask was used up"


def answered(usage):
    """A reply with an answer and with what a server says of its tokens."""
    return b'{"choices": [{"message": {"content": "a text"}}], "usage": %s}' % usage


@pytest.mark.parametrize(
    "usage",
    [b'{"prompt_tokens": 9223372036854775808, "completion_tokens": 1}', b"[" * 20 + b"]" * 20],
)
def test_a_paid_reply_is_stored_whatever_stands_in_it(ledger, priced, usage):
    with Server(raw=lambda body: answered(usage)) as server:
        for _ in range(2):
            assert texts(ask(questions(3), at(server), ledger)) == [["a text"]] * 3
        assert server.received == 3
        assert ledger.spent() > 3 * 1024 * 2.0 / 1e6, "the reserve stays"


def test_a_key_that_a_server_repeats_is_stored_nowhere(ledger):
    repeated = json.dumps({"choices": [{"message": {"content": f"your key is {SECRET}"}}]}).encode()
    with Server(raw=lambda body: repeated, headers={"x-request-id": f"r-{SECRET}"}) as server:
        assert texts(ask(questions(1), at(server), ledger)) == [["your key is [key]"]]
    nowhere_in(ledger)


def test_a_request_costs_five_statements(ledger):
    """Is there a reply? Begin; its bytes; what was read of them; is there a reply now?"""
    statements = {}  # each once: triggers show theirs again
    with Server() as server:
        ask(questions(1), at(server), ledger)
        ledger.db.set_trace_callback(lambda text: statements.setdefault(text))
        ask(questions(11), at(server, concurrency=1), ledger)
    kinds = Counter(text.split()[0] for text in statements)
    assert (kinds["insert"], kinds["update"]) == (10, 20)
    # Once an `ask`: are batches open?
    assert kinds["select"] == 11 + 1, "each key's is the same text before and after"


# ---- several processes ----

ASKING = """
import sys
from pathlib import Path
from helpers.chat.ledger import Ledger
from tests.faults.asking import Endpoint, ask, questions
address, path, count, per_minute = sys.argv[1:]
where = Endpoint(
    base_url=address,
    model="m",
    key_env="TEST_KEY",
    concurrency=8,
    requests_per_minute=float(per_minute) or None,
)
print("ready", flush=True)
sys.stdin.readline()
assert all(ask(questions(int(count)), where, Ledger(Path(path))))
"""


def processes(number, server, ledger, count, *, per_minute=0.0):
    """Processes that ask the same questions at the same moment."""
    command = [sys.executable, "-c", ASKING, server.url, str(ledger.path), str(count)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    children = [
        subprocess.Popen(
            [*command, str(per_minute)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
            **pipes,
        )
        for _ in range(number)
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    return children


def finish(children):
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors


def test_processes_with_the_same_questions_pay_once(ledger):
    with Server(latency=0.02) as server:
        finish(processes(2, server, ledger, 100))
        assert server.received == 100
    assert states(ledger) == {"replied": 100}


def test_waiting_for_another_process_is_said(ledger, monkeypatch, capsys):
    monkeypatch.setenv(progress.HEADLESS, "03")
    monkeypatch.setattr(progress, "EVERY", 0.3)
    with Server(latency=1.5) as server:
        children = processes(1, server, ledger, 1)
        while not server.received:
            time.sleep(0.01)
        ask(questions(2), at(server), ledger)
        finish(children)
    assert "waiting for other processes that ask the same model" in capsys.readouterr().err


def test_what_a_killed_process_was_asking_is_taken_over(ledger):
    with Server(latency=30) as server:
        (child,) = processes(1, server, ledger, 5)
        while server.received < 5:
            time.sleep(0.01)
        server.latency = 0
        child.kill()
        child.communicate()
        assert states(ledger) == {"sent": 5}
        assert [len(r) for r in ask(questions(5), at(server), ledger)] == [1] * 5
        assert server.received == 10
    assert states(ledger) == {"replied": 5, "lost": 5}


def test_processes_keep_to_a_rate_together(ledger):
    """Two that may ask 40 a second each, against a limit of 50 with room for 10 at once."""
    with Server(rate=50, burst=10) as server:
        finish(processes(2, server, ledger, 60, per_minute=40 * 60))
        assert server.happened["429"] == 0
        assert server.received == 60


def test_requests_and_replies_outlast_a_write_lock_that_is_held_elsewhere(ledger):
    """Some workers wait with a reply that has come, some before a new request: none is lost."""
    with Server(latency=0.2) as server:
        holder = sqlite3.connect(ledger.path, isolation_level=None, check_same_thread=False)

        def hold(body, i):
            if server.billed == 8:
                holder.execute("begin immediate")
                threading.Timer(1.5, holder.execute, ["rollback"]).start()
            return "text"

        server.say = hold
        assert [len(r) for r in ask(questions(24), at(server, concurrency=8), ledger)] == [1] * 24
        holder.close()
        assert server.received == 24
    assert states(ledger) == {"replied": 24}


def test_requests_on_their_way_go_on_while_a_write_lock_is_held_elsewhere(ledger, monkeypatch):
    """For longer than one of them may take."""
    holder = sqlite3.connect(ledger.path, isolation_level=None, check_same_thread=False)
    begin = ledger.begin

    def begin_and_hold(*args, **settings):
        attempt = begin(*args, **settings)
        if attempt == 1:
            holder.execute("begin immediate")
            threading.Timer(1.5, holder.execute, ["rollback"]).start()
        return attempt

    monkeypatch.setattr(ledger, "begin", begin_and_hold)
    with Server() as server:
        ask(questions(8), at(server, timeout=0.5), ledger)
    holder.close()
    assert states(ledger) == {"replied": 8}


def test_a_reply_that_waits_for_a_write_lock_outlasts_an_interrupt(ledger):
    with Server(latency=0.3) as server:
        (child,) = processes(1, server, ledger, 3)
        while server.received < 3:
            time.sleep(0.01)
        with contextlib.closing(sqlite3.connect(ledger.path, isolation_level=None)) as holder:
            holder.execute("begin immediate")
            server.settle()
            time.sleep(0.5)
            child.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert "KeyboardInterrupt" in child.communicate(timeout=60)[1]
    assert states(ledger) == {"replied": 3}


def test_the_account_of_the_sdk_s_variables_pays(ledger, monkeypatch):
    monkeypatch.setenv("OPENAI_PROJECT_ID", "ours")
    seen = []

    class Noting(Handler):
        def respond(self, *what):
            seen.append(self.headers["OpenAI-Project"])
            super().respond(*what)

    class Other(Server):
        def handler(self):
            return Noting

    with Other() as server:
        ask(questions(1), at(server), ledger)
    assert seen == ["ours"]


def test_a_new_parser_reads_old_replies_and_asks_nothing(ledger):
    def read(usable):
        return texts(
            ask(
                questions(2, n=3),
                at(server),
                ledger,
                usable=lambda q, r: usable(r.text),
            )
        )

    with Server(say=choice_named) as server:
        assert read(lambda text: text in ("0.0", "4.0")) == [["0.0", "4.0"]] * 2
        received = server.received
        assert read(lambda text: True) == [["0.0", "0.1", "0.2"]] * 2
        assert read(lambda text: text > "0.0") == [["0.1", "0.2", "3.0"]] * 2
        assert server.received == received


def test_what_is_stored_needs_no_key_no_network_and_no_price(ledger, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    away, some = (
        Endpoint(base_url="https://api.invalid/v1", model="m", key_env="TEST_KEY"),
        questions(3),
    )
    for request in some:
        (missing,) = Outcome(request, away).look(ledger)
        whole = json.dumps({"choices": [{"message": {"content": "stored"}}]}).encode()
        who = {"endpoint": away.base_url, "model": "m", "role": "judge", "replicate": 0}
        ledger.replied(ledger.begin(missing.key, body=missing.body, **who), whole)
    assert texts(ask(some, away, Ledger(ledger.path, budget=0.0))) == [["stored"]] * 3
    with pytest.raises(UserError, match="environment variable TEST_KEY"):
        ask(questions(4), away, ledger)


def test_a_reply_at_the_token_limit_says_so(ledger):
    with Server({"length": 1}) as server:
        assert [r.cut for r in ask(questions(1), at(server), ledger)[0]] == [True]


def test_tokens_reach_the_ledger(ledger):
    with Server() as server:
        ask(questions(2), at(server), ledger)
        assert ledger.summary().prompt_tokens.tolist() == [14]


def test_models_and_replicates_never_share_replies(ledger):
    def asked(server, **settings):
        replicate = settings.pop("replicate", 0)
        return texts(ask(questions(1, replicate=replicate), at(server, **settings), ledger))[0][0]

    with Server(say=lambda body, i: f"{server.received}") as server:
        ways = [
            {},
            {"model": "l"},
            {"replicate": 1},
            {"temperature": 0.0},
            {"max_tokens": 7},
            {"takes_seed": False},
        ]
        ways += [{"takes_seed": False, "replicate": 1}]
        first = [asked(server, **way) for way in ways]
        assert first == [str(i + 1) for i in range(len(ways))]
        assert [asked(server, **way) for way in ways] == first
        assert server.received == len(ways)
    with Server(say=lambda body, i: "elsewhere") as server:
        assert asked(server) == "elsewhere"


def test_the_same_request_twice_is_paid_once(ledger):
    with Server(latency=0.1) as server:
        replies = ask(questions(1) * 5 + questions(2), at(server), ledger)
        assert server.received == 2
        assert len({t for some in texts(replies[:6]) for t in some}) == 1
        assert ask(questions(1) * 5 + questions(2), at(server), ledger) == replies


def test_ask_works_inside_a_running_loop(ledger):
    async def cell():
        return ask(questions(3), at(server), ledger)

    with Server() as server:
        assert [len(r) for r in asyncio.run(cell())] == [1, 1, 1]


def test_no_requests(ledger):
    with Server() as server:
        assert ask([], at(server), ledger) == []


def test_an_interrupt_stops_asking(ledger):
    def interrupting(body, i):
        if server.billed == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return "text"

    with Server(latency=0.05, say=interrupting) as server:
        with pytest.raises(KeyboardInterrupt):
            ask(questions(200), at(server, concurrency=8), ledger)
        server.settle()
        assert 20 <= server.billed < 100
        ask(questions(200), at(server, concurrency=8), ledger)
        assert 200 <= server.billed <= 208
