"""The chat client under fire: a real client against a server on loopback whose faults are seeded."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import traceback

import pytest

from helpers import chat, endpoint, limits
from helpers.chat import Endpoint, Request, ask
from helpers.errors import UserError
from helpers.ledger import Ledger
from helpers.paths import ROOT
from tests.faults.server import Server

SECRET = "sk-MARKED-0123456789abcdef"


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.sqlite")


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def quick(monkeypatch):
    """No waiting between tries."""
    monkeypatch.setattr(limits, "FIRST_WAIT", 0.001)


def at(server, **settings):
    return Endpoint(**{"base_url": server.url, "model": "m", "key_env": "TEST_KEY", **settings})


def questions(count, **settings):
    return [Request([{"role": "user", "content": f"question {i}"}], **settings) for i in range(count)]


def number(body):
    return int(body["messages"][0]["content"].split()[1])


def texts(replies):
    return [[r.text for r in some] for some in replies]


def one_sentence(failure):
    """The user's sentence; the key stands neither in it nor in the traceback."""
    sentence = str(failure.value)
    assert "\n" not in sentence
    assert len(sentence) < 700
    assert "MARKED" not in sentence + "".join(traceback.format_exception(failure.value))
    return sentence


def nowhere_in(ledger, secret="MARKED"):
    files = list(ledger.path.parent.iterdir())
    assert ledger.path in files
    assert not [f for f in files if secret.encode() in f.read_bytes()], "the key stands in the ledger"


def counts(ledger):
    return dict(ledger.db.execute("select state, count(*) from attempt group by state").fetchall())


# ---- many requests, many faults ----

MIXED = {"500": 0.03, "429": 0.01, "drop_before": 0.01, "garbage": 0.005, "drop_after": 0.01, "truncated": 0.01}
MIXED |= {"broken": 0.005, "list": 0.005, "empty": 0.005, "slow": 0.01, "length": 0.005}


def test_ten_percent_faults_lose_nothing(ledger, quick):
    with Server(MIXED, seed=3, latency=0.02) as server:
        many, where = questions(400), at(server, concurrency=50)
        replies = ask(many, where, ledger, stage="judge")
        assert [len(r) for r in replies] == [1] * 400
        assert len({r.text for some in replies for r in some}) == 400
        assert set(server.happened) >= set(MIXED), "a fault that never came proves nothing"
        assert server.billed - 400 == server.paid_and_lost()
        assert sum(counts(ledger).values()) == server.received
        assert counts(ledger)["replied"] == server.billed - server.happened["drop_after"] - server.happened["truncated"]
        asked = server.received
        again = ask(many, where, Ledger(ledger.path), stage="judge")
        assert again == replies
        assert server.received == asked, "a stored reply was asked for again"
    nowhere_in(ledger)


def test_rate_limits_lose_nothing(ledger):
    with Server(rate=100, burst=20) as server:
        replies = ask(questions(200), at(server, concurrency=50), ledger, stage="judge")
        assert [len(r) for r in replies] == [1] * 200
        assert server.billed == 200
        assert server.happened["429"], "the limit was never reached"


def test_order_of_replies_is_the_order_of_requests(ledger):
    def late(body, i):
        time.sleep(random.Random(number(body)).random() / 10)
        return f"reply {number(body)}"

    with Server(say=late) as server:
        assert texts(ask(questions(60), at(server), ledger, stage="judge")) == [[f"reply {i}"] for i in range(60)]


# ---- what no second try can mend ----


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("400", "Unsupported value: 'temperature' see the documentation"),
        ("401", "the key in TEST_KEY was refused"),
        ("402", "Insufficient credits"),
        ("403", "the key in TEST_KEY was refused"),
        ("404", "judge.model (or judge.base_url) in params"),
        ("quota", "quota is used up"),
    ],
)
@pytest.mark.parametrize("secret", [SECRET, "MARKED0123456789"])
def test_refusals_end_the_run_with_a_sentence(ledger, monkeypatch, fault, says, secret):
    monkeypatch.setenv("TEST_KEY", secret)
    with Server({fault: 1}) as server:
        with pytest.raises(UserError) as failure:
            ask(questions(20), at(server, concurrency=4), ledger, stage="judge")
        assert server.received <= 4, "asked again what cannot be mended"
    assert says in one_sentence(failure)
    assert server.url in str(failure.value)
    nowhere_in(ledger)


def test_a_server_that_stays_broken(ledger, quick):
    for fault, why in {"500": "HTTP 500", "drop_after": "", "garbage": ""}.items():
        with Server({fault: 1}) as server:
            with pytest.raises(UserError, match=f"{limits.TRANSPORT_TRIES} failures in a row.*{why}.*run again") as failure:
                ask(questions(1), at(server), ledger, stage="judge")
            assert server.received == limits.TRANSPORT_TRIES
        one_sentence(failure)
    nowhere_in(ledger)


def test_nobody_at_the_address(ledger, quick):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match="failures in a row") as failure:
        ask(questions(1), Endpoint(base_url=address, model="m", key_env="TEST_KEY"), ledger, stage="judge")
    one_sentence(failure)


def test_replies_before_the_end_are_stored(ledger, quick):
    with Server({"500": 0.9}, seed=1) as server:
        with pytest.raises(UserError):
            ask(questions(30), at(server, concurrency=4), ledger, stage="judge")
        assert counts(ledger)["replied"] >= 1
        stored, server.faults = counts(ledger)["replied"], {}
        assert len(ask(questions(30), at(server), ledger, stage="judge")) == 30
        server.settle()
        assert counts(ledger)["replied"] == 30
        assert server.billed <= 30 + 3, f"{stored} stored, at most three more in flight when the run ended"


def test_a_time_out_is_tried_again(ledger, quick):
    with Server({"slow": 0.5}, seed=2, slow=2) as server:
        replies = ask(questions(8), at(server, timeout=0.5), ledger, stage="judge")
        assert [len(r) for r in replies] == [1] * 8
        assert server.happened["slow"]
        assert server.received >= 8 + server.happened["slow"]


@pytest.mark.parametrize("retry_after", ["7200", "Wed, 21 Oct 2099 07:28:00 GMT", "nan", "-1", "soon"])
def test_rate_limits_are_bounded_in_time(ledger, monkeypatch, retry_after):
    """What is no number of seconds counts as at least one."""
    monkeypatch.setattr(limits, "RATE_LIMIT_SECONDS", 1)
    with Server({"429": 1}, retry_after=retry_after) as server:
        with pytest.raises(UserError, match="rate limit") as failure:
            ask(questions(1), at(server), ledger, stage="judge")
        assert server.received == 1
    one_sentence(failure)


@pytest.mark.parametrize("value", [None, "", "sk-MARKED\n0123456789", "sk-MARKED…0123456789"])
def test_a_key_that_is_missing_or_broken(ledger, monkeypatch, value):
    """`.invalid` is no host, so a request would show as a failure of transport."""
    monkeypatch.delenv("TEST_KEY") if value is None else monkeypatch.setenv("TEST_KEY", value)
    with pytest.raises(UserError, match="environment variable TEST_KEY") as failure:
        ask(questions(1), Endpoint(base_url="https://api.invalid/v1", model="m", key_env="TEST_KEY"), ledger, stage="judge")
    one_sentence(failure)
    assert counts(ledger) == {}


def test_a_key_with_a_newline_at_its_end(ledger, monkeypatch):
    """As read from a file."""
    monkeypatch.setenv("TEST_KEY", SECRET + "\r\n")
    with Server() as server:
        assert len(ask(questions(1), at(server), ledger, stage="judge")[0]) == 1
        server.faults = {"400": 1}
        with pytest.raises(UserError) as failure:
            ask(questions(2), at(server), ledger, stage="judge")
    one_sentence(failure)


def test_loopback_needs_no_key(ledger, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with Server() as server:
        assert len(ask(questions(1), at(server), ledger, stage="judge")[0]) == 1
    for address in ("http://localhost", "http://localhost:8000/v1", "http://127.0.0.1/v1", "https://[::1]:1/v1"):
        endpoint.client(Endpoint(base_url=address, model="m", key_env="TEST_KEY"))
    for address in ("http://localhost.example.com/v1", "http://127.0.0.1.example.com"):
        with pytest.raises(UserError, match="needs a key"):
            endpoint.client(Endpoint(base_url=address, model="m", key_env="TEST_KEY"))


# ---- several replies to one request ----


def test_gradings_come_in_one_request(ledger):
    with Server() as server:
        replies = ask(questions(5, n=3), at(server), ledger, stage="judge")
        assert [len(set(t)) for t in texts(replies)] == [3] * 5
        assert server.received == 5
        assert {(b["n"], b["seed"]) for b in server.bodies} == {(3, 0)}


def choice_named(body, i):
    """Says which choice of which replicate it is."""
    return f"{body['seed']}.{i}"


def test_an_unusable_choice_is_asked_again_alone(ledger):
    with Server(say=choice_named) as server:
        replies = ask(questions(1, n=3), at(server), ledger, stage="judge", usable=lambda q, r: r.text not in ("0.1", "3.0"))
        assert texts(replies) == [["0.0", "0.2", "4.0"]]
        assert [(b.get("n"), b["seed"]) for b in server.bodies] == [(3, 0), (None, 3), (None, 4)]


def test_what_is_usable_may_depend_on_the_request(ledger):
    some = questions(3, n=2)
    with Server(say=choice_named) as server:
        replies = ask(some, at(server), ledger, stage="judge", usable=lambda q, r: q is not some[1])
        assert texts(replies) == [["0.0", "0.1"], [], ["0.0", "0.1"]]


def test_an_endpoint_without_n_gets_replicates(ledger):
    with Server(say=choice_named) as server:
        replies = ask(questions(1, n=3), at(server, takes_n=False), ledger, stage="judge", usable=lambda q, r: r.text != "1.0")
        assert texts(replies) == [["0.0", "2.0", "3.0"]]
        assert [(b.get("n"), b["seed"]) for b in server.bodies] == [(None, 0), (None, 1), (None, 2), (None, 3)]


def test_an_endpoint_that_ignores_n(ledger):
    with Server(say=choice_named, most=1) as server:
        assert texts(ask(questions(1, n=3), at(server), ledger, stage="judge")) == [["0.0", "3.0", "4.0"]]


def test_a_used_up_budget_gives_fewer_replies(ledger):
    def never(q, r):
        return False

    with Server(say=choice_named) as server:
        some = ask(questions(1, n=3), at(server), ledger, stage="judge", usable=lambda q, r: r.text == "0.1")
        assert texts(some) == [["0.1"]]
        assert server.received == 1 + 2
    with Server(say=choice_named) as server:
        for _ in range(2):  # the budget holds over runs
            assert ask(questions(2), at(server), ledger, stage="judge", usable=never, re_asks=4) == [[], []]
            assert server.received == 2 * 5


@pytest.mark.parametrize("fault", ["empty", "broken", "list"])
def test_replies_without_text(ledger, fault):
    with Server({fault: 1}) as server:
        assert ask(questions(2), at(server), ledger, stage="judge") == [[], []]
        assert counts(ledger) == {"replied": 6}, "what was paid is kept as it came"
        server.faults = {}
        assert [len(r) for r in ask(questions(2), at(server), ledger, stage="judge", re_asks=3)] == [1, 1]
        assert server.received == 8


def test_a_reply_at_the_token_limit_says_so(ledger):
    with Server({"length": 1}) as server:
        assert [r.cut for r in ask(questions(1), at(server), ledger, stage="judge")[0]] == [True]


def test_parse_reads_what_endpoints_send():
    def sent(message, **more):
        return json.dumps({"choices": [{"message": message, **more}]}).encode()

    assert chat.parse(sent({"content": "a"}, finish_reason="stop")) == [chat.Reply("a", False)]
    assert chat.parse(sent({"content": None, "refusal": "no"}, finish_reason="length")) == [chat.Reply("", True)]
    assert chat.parse(sent({"content": [{"type": "text", "text": "a"}]})) == [chat.Reply("", False)]
    half = chat.parse(b'{"choices": [{"message": {"content": "a \\ud83d"}}]}')[0].text
    assert half.encode(), "half a character cannot be stored or sent on"
    for odd in (b"", b"[]", b"1", b"null", b"\xff", b'{"choices": null}', b'{"choices": [null]}', b'{"choices": [{"message": null}]}'):
        assert chat.parse(odd) == []


def test_usage_may_be_anything(ledger):
    with Server() as server:
        for usage in (None, [], "7", {"prompt_tokens": None}, {"prompt_tokens": {"a": 1}, "completion_tokens": "7"}):
            assert chat.usage_of(json.dumps({"usage": usage}).encode()) == {}
        assert chat.usage_of(b'{"usage": {"prompt_tokens": 7, "completion_tokens": 2}}') == {"prompt_tokens": 7, "completion_tokens": 2}
        ask(questions(2), at(server), ledger, stage="judge")
        assert ledger.summary().prompt_tokens.tolist() == [14]


# ---- whose reply it is ----


def test_models_and_replicates_never_share_replies(ledger):
    def asked(server, **settings):
        replicate = settings.pop("replicate", 0)
        return texts(ask(questions(1, replicate=replicate), at(server, **settings), ledger, stage="judge"))[0][0]

    with Server(say=lambda body, i: f"{server.received}") as server:
        ways = [{}, {"model": "l"}, {"replicate": 1}, {"temperature": 0.0}, {"max_tokens": 7}, {"takes_seed": False}]
        ways += [{"takes_seed": False, "replicate": 1}]
        first = [asked(server, **way) for way in ways]
        assert first == [str(i + 1) for i in range(len(ways))]
        assert [asked(server, **way) for way in ways] == first
        assert server.received == len(ways)
    with Server(say=lambda body, i: "elsewhere") as server:
        assert asked(server) == "elsewhere"


def test_the_same_request_twice_is_paid_once(ledger):
    with Server(latency=0.1) as server:
        replies = ask(questions(1) * 5 + questions(2), at(server), ledger, stage="judge")
        assert server.received == 2
        assert len({t for some in texts(replies[:6]) for t in some}) == 1
        assert ask(questions(1) * 5 + questions(2), at(server), ledger, stage="judge") == replies


def test_settings_reach_the_wire(ledger):
    cases = [
        ({}, {"temperature": 0.7, "max_tokens": 1024, "seed": 4}),
        ({"max_tokens_field": "max_completion_tokens", "max_tokens": 9}, {"temperature": 0.7, "max_completion_tokens": 9, "seed": 4}),
        ({"temperature": None}, {"max_tokens": 1024, "seed": 4}),
        ({"temperature": 0.0, "takes_seed": False}, {"temperature": 0.0, "max_tokens": 1024}),
    ]
    with Server() as server:
        for settings, expected in cases:
            ask(questions(1, replicate=4), at(server, **settings), ledger, stage="judge")
            assert server.bodies[-1] == {"model": "m", "messages": questions(1)[0].messages, **expected}


# ---- interrupted, killed, inside a notebook ----


def test_ask_works_inside_a_running_loop(ledger):
    async def cell():
        return ask(questions(3), at(server), ledger, stage="judge")

    with Server() as server:
        assert [len(r) for r in asyncio.run(cell())] == [1, 1, 1]


def test_no_requests(ledger):
    with Server() as server:
        assert ask([], at(server), ledger, stage="judge") == []


def test_an_interrupt_stops_asking(ledger):
    def interrupting(body, i):
        if server.billed == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return "text"

    with Server(latency=0.05, say=interrupting) as server:
        with pytest.raises(KeyboardInterrupt):
            ask(questions(200), at(server, concurrency=8), ledger, stage="judge")
        server.settle()
        assert 20 <= server.billed < 100
        ask(questions(200), at(server, concurrency=8), ledger, stage="judge")
        assert 200 <= server.billed <= 208


KILLED = """
import sys
from pathlib import Path
from helpers.chat import Endpoint, Request, ask
from helpers.ledger import Ledger
where = Endpoint(base_url=sys.argv[1], model="m", key_env="TEST_KEY", concurrency=16)
ask([Request([{"role": "user", "content": f"question {i}"}]) for i in range(200)], where, Ledger(Path(sys.argv[2])), stage="judge")
"""


def killed_half_way(folder, seed):
    """200 slow requests in another process, killed somewhere in the middle, then asked again here."""
    folder.mkdir()
    path, after = folder / "ledger.sqlite", random.Random(seed).randint(20, 150)
    with Server(latency=0.05) as server:
        command = [sys.executable, "-c", KILLED, server.url, path]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while server.billed < after and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
        assert process.returncode == -signal.SIGKILL
        server.settle()
        assert after <= server.billed < 200, "not killed half way"
        ledger = Ledger(path)
        stored = [json.loads(b) for (b,) in ledger.db.execute("select body from attempt where state = 'replied'")]
        assert len(stored) >= server.billed - 16
        asked = server.received
        replies = ask(questions(200), at(server, concurrency=16), ledger, stage="judge")
        assert [len(r) for r in replies] == [1] * 200
        again = {number(b) for b in server.bodies[asked:]}
        assert not again & {number(b) for b in stored}, "a stored reply was asked for again"
        assert server.billed - 200 <= 16


def test_a_killed_run_goes_on(tmp_path):
    for seed in range(3):
        killed_half_way(tmp_path / f"{seed}", seed)


@pytest.mark.slow
def test_twenty_killed_runs_go_on(tmp_path):
    for seed in range(20):
        killed_half_way(tmp_path / f"{seed}", 100 + seed)


# ---- addresses ----


def test_addresses_are_checked():
    for good in ("world:", "world:?drop=0.5", "http://localhost:1/v1", "https://api.example.com/v1"):
        chat.check_address(good)
    for bad in ("api.example.com", "ftp://a", "world:?drop=2", "world:?speed=1", ""):
        with pytest.raises(UserError, match=re.escape(bad.partition("?")[0]) or "base_url"):
            chat.check_address(bad)
