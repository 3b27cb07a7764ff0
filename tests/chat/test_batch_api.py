"""The Batch API: the same contract, keys and replies as one by one; nothing is paid twice."""

import os
import signal
import subprocess
import sys

import openai
import pytest

from helpers.chat import batch_api, endpoint, money, retries
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Call, Ledger
from helpers.chat.replies import Request, request_body
from helpers.errors import UserError
from helpers.paths import ROOT
from tests.faults import asking
from tests.faults.asking import ask, nowhere_in, one_sentence, states, texts
from tests.faults.batches import BatchServer

pytestmark = pytest.mark.usefixtures("quick")


def at(server, **settings):
    return asking.at(server, **{"batch_api": True, **settings})


def questions(count, **settings):
    """Not ASCII alone."""
    return [
        Request([{"role": "user", "content": f"question {i} ü"}], **settings) for i in range(count)
    ]


def say(body, i):
    """Names the question, the replicate and the choice."""
    return f"{body['messages'][0]['content']}: {body.get('seed')}.{i}"


# ---- the same contract ----


def test_replies_are_those_of_the_right_requests(ledger):
    with BatchServer(say=say, polls=3) as server:
        replies = ask(questions(40, n=3), at(server), ledger)
        assert texts(replies) == [[f"question {i} ü: 0.{c}" for c in range(3)] for i in range(40)]
        assert [len(x) for x in server.lines] == [40]
        assert ask(questions(40, n=3), at(server), Ledger(ledger.path)) == replies
        assert len(server.batches) == 1
    rows = ledger.summary().set_index("state").loc["replied"]
    assert (rows.requests, rows.prompt_tokens, rows.completion_tokens) == (40, 40 * 7, 40 * 3)
    assert {i for (i,) in ledger.db.execute("select request_id from attempt")} == {
        f"r{i}" for i in range(40)
    }


@pytest.mark.parametrize("takes_n", [True, False])
def test_switching_batches_on_and_off_asks_nothing_again(ledger, takes_n):
    def usable(request, reply):
        return not reply.text.endswith(("0.1", "1.0"))  # one of the first three

    with BatchServer(say=say) as server:
        settings = {"usable": usable}
        one_by_one = ask(
            questions(5, n=3), at(server, batch_api=False, takes_n=takes_n), ledger, **settings
        )
        received = server.received
        assert ask(questions(5, n=3), at(server, takes_n=takes_n), ledger, **settings) == one_by_one
        assert (server.received, len(server.batches)) == (received, 0)
        by_batch = ask(questions(9, n=3), at(server, takes_n=takes_n), ledger, **settings)
        assert by_batch[:5] == one_by_one
        assert [len(some) for some in by_batch] == [3] * 9
        assert [len(x) for x in server.lines] == ([4, 4] if takes_n else [12, 4]), (
            "the second batch asks for what the first left"
        )
        received = server.received
        assert (
            ask(questions(9, n=3), at(server, batch_api=False, takes_n=takes_n), ledger, **settings)
            == by_batch
        )
        assert server.received == received


def test_re_asks_are_bounded(ledger):
    with BatchServer(say=say) as server:
        assert (
            ask(
                questions(3),
                at(server),
                ledger,
                usable=lambda q, r: False,
                re_asks=2,
            )
            == [[]] * 3
        )
        assert [len(x) for x in server.lines] == [3, 3, 3]


def test_the_same_request_twice_is_one_line(ledger):
    with BatchServer(say=say) as server:
        assert len(ask(questions(2) * 3, at(server), ledger)) == 6
        assert [len(x) for x in server.lines] == [2]


def test_chunks_keep_to_the_limits(ledger, monkeypatch):
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 10)
    with BatchServer(say=say) as server:
        ask(questions(25), at(server), ledger)
        assert [len(x) for x in server.lines] == [10, 10, 5]
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 1000)
    with BatchServer(say=say) as server:
        body = request_body(questions(1)[0], at(server), 0, 1)
        length = len(batch_api.line(Call("k" * 64, 0, body)))
        monkeypatch.setattr(batch_api, "MOST_BYTES", 4 * length + 2)
        ask(questions(9), at(server), ledger)
        assert [len(x) for x in server.lines] == [4, 4, 1]
        assert all(
            len(server.files[b["input_file_id"]]) <= 4 * length for b in server.batches.values()
        )


# ---- batches that do not bring everything ----


@pytest.mark.parametrize("fate", ["expired", "cancelled"])
def test_a_stopped_batch_is_sent_again_without_what_it_brought(ledger, fate):
    with BatchServer(say=say, fates=[fate]) as server:
        assert texts(ask(questions(21), at(server), ledger)) == [
            [f"question {i} ü: 0.0"] for i in range(21)
        ]
        assert [len(x) for x in server.lines] == [21, 11]
        assert server.billed == 21
        assert not set(server.lines[1]) & set(server.lines[0][:10])


def test_failed_lines_are_sent_again_alone(ledger):
    with BatchServer({"500": 0.1, "429": 0.05}, seed=1, say=say) as server:
        assert all(len(some) == 1 for some in ask(questions(50), at(server), ledger))
        assert server.billed == 50
        failed = server.happened["500"] + server.happened["429"]
        assert sum(map(len, server.lines)) == 50 + failed
        assert failed > 5


def test_requests_that_never_come_end_with_a_sentence(ledger):
    with BatchServer({"500": 1}) as server:  # completed, and no output file
        with pytest.raises(
            UserError,
            match=f"{batch_api.TRIES} batches in a row brought no reply to 4 of 4 requests",
        ) as failure:
            ask(questions(4), at(server), ledger)
        assert len(server.batches) == batch_api.TRIES
        assert all(b["output_file_id"] is None for b in server.batches.values())
    one_sentence(failure)


def test_a_batch_that_is_found_invalid_ends_with_a_sentence(ledger, priced):
    with BatchServer(fates=["failed"]) as server:
        with pytest.raises(
            UserError,
            match="was refused and cost nothing: Enqueued token limit reached for this model",
        ) as failure:
            ask(questions(4), at(server), ledger)
        assert len(server.batches) == 1
        assert ledger.spent() == 0
        assert len(ask(questions(4), at(server), ledger)) == 4, "the next run may try again"
    one_sentence(failure)


@pytest.mark.parametrize(
    ("fault", "says"),
    [("400", "the request was refused"), ("404", "judge.model"), ("quota", "quota is used up")],
)
def test_a_refused_line_ends_the_run_and_the_others_are_stored(ledger, fault, says):
    with BatchServer({fault: 0.3}, seed=2, say=say) as server:
        with pytest.raises(UserError, match=says) as failure:
            ask(questions(20), at(server), ledger)
        assert 0 < server.billed < 20
        assert states(ledger)["replied"] == server.billed
        assert len(server.batches) == 1
    one_sentence(failure)


def test_a_line_that_cannot_be_read_is_asked_again(ledger, priced):
    """A line torn or nested too deeply to read may have been paid."""
    with BatchServer(say=say) as server:

        def tear(call):
            if call == "GET batch" and len(server.lines) == 1:
                name = next(iter(server.batches.values()))["output_file_id"]
                torn, *others = server.files[name].splitlines(keepends=True)
                server.files[name] = torn[:-20] + b"\n" + b"".join(others)

        server.hook = tear
        replies = ask(questions(5), at(server), ledger)
        assert [len(usable) for usable in replies] == [1] * 5
        assert [len(x) for x in server.lines] == [5, 1]
    assert states(ledger) == {"replied": 5, "batch completed: no reply": 1}
    assert ledger.spent() > 1024 * 1.0 / 1e6, "it may have cost all that was reserved"


# ---- calls that fail ----


@pytest.mark.parametrize("call", ["POST /v1/files", "POST /v1/batches", "GET batch", "GET content"])
def test_a_call_without_a_reply_is_made_again_and_the_batch_is_not(ledger, call):
    with BatchServer(say=say, broken={call: 2}) as server:
        assert len(ask(questions(6), at(server), ledger)) == 6
        assert server.billed == 6
        assert len(server.batches) == 1, "created again"


@pytest.mark.parametrize("call", ["POST /v1/files", "POST /v1/batches", "GET batch", "GET content"])
@pytest.mark.parametrize("status", [400, 401, 404, 500])
def test_refused_calls_end_with_a_sentence_without_the_key(ledger, priced, call, status):
    if status == 404 and call in ("GET batch", "GET content"):
        pytest.skip("a batch that is gone, or what it brought: below")
    with BatchServer(say=say, refused={call: status}) as server:
        with pytest.raises(UserError) as failure:
            ask(questions(6), at(server), ledger)
        one_sentence(failure)
        assert server.calls.count(call) == (retries.TRANSPORT_TRIES if status == 500 else 1)
        server.refused = {}
        assert all(len(some) == 1 for some in ask(questions(6), at(server), ledger))
        assert len(server.batches) == 1
        assert server.billed == 6
    nowhere_in(ledger)


def test_an_endpoint_without_batches_says_so(ledger):
    with pytest.raises(
        UserError, match=r"world: has no Batch API .* set batch_api: false of this judge"
    ) as failure:
        ask(
            questions(2),
            Endpoint(base_url="world:", model="judge", batch_api=True),
            ledger,
        )
    one_sentence(failure)
    with pytest.raises(UserError, match="HTTP 400"):  # the embedded judge cannot read these
        ask(questions(2), Endpoint(base_url="world:", model="judge"), ledger)
    assert not ledger.open_batches("world:", "judge"), "nothing waits for it"


def test_a_batch_that_is_gone_is_sent_again(ledger):
    with BatchServer(say=say, polls=10**9) as server:
        server.hook = lambda call: (
            server.batches.clear() if call == "GET batch" and len(server.lines) == 1 else None
        )
        server.polls = 2
        assert all(len(some) == 1 for some in ask(questions(6), at(server), ledger))
        assert [len(x) for x in server.lines] == [6, 6]


@pytest.mark.parametrize("batch_api", [True, False])
@pytest.mark.parametrize(("field", "billed"), [("output_file_id", 30), ("error_file_id", 20)])
def test_what_a_batch_brought_is_gone(ledger, priced, capsys, batch_api, field, billed):
    """A provider that deletes files after some time: the rest is kept, what is lost asked anew."""
    with BatchServer(say=say, fates=["expired"], polls=10**9) as server:  # 10 replies of 20
        server.hook = lambda call: (
            os.kill(os.getpid(), signal.SIGINT) if call == "GET batch" else None
        )
        with pytest.raises(KeyboardInterrupt):
            ask(questions(20), at(server), ledger)
        server.polls, server.hook = 0, lambda call: None
        (batch,) = server.batches.values()
        del server.files[batch[field]]
        replies = ask(questions(20), at(server, batch_api=batch_api), ledger)
        assert texts(replies) == [[f"question {i} ü: 0.0"] for i in range(20)]
        assert server.billed == billed
    assert states(ledger) == {"replied": 20, "batch expired, its file gone: no reply": billed - 10}
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "deleted" in line]
    assert f"{batch['id']} brought; 10 replies, perhaps paid for, are gone" in line


def test_a_file_that_is_not_there_yet_is_waited_for(ledger, capsys):
    class Late(dict):
        def __getitem__(self, name):
            if 0 < server.calls.count("GET content") < batch_api.TRIES:
                raise KeyError(name)
            return super().__getitem__(name)

    with BatchServer(say=say) as server:
        server.files = Late()
        assert len(ask(questions(4), at(server), ledger)) == 4
        assert (server.billed, len(server.batches)) == (4, 1)
    assert "deleted" not in capsys.readouterr().err


# ---- killed ----


class Killed(BaseException):
    pass


def dying(monkeypatch, call, after):
    """The client dies at its `call`-th call, before it is sent or after its reply has come.

    Returns the calls so far.
    """
    made = []

    class Client(openai.DefaultAioHttpClient):
        async def send(self, request, **settings):
            made.append(f"{request.method} {request.url.path}")
            if len(made) - 1 == call and not after:
                raise Killed
            response = await super().send(request, **settings)
            if len(made) - 1 == call:
                raise Killed
            return response

    monkeypatch.setattr(endpoint.Network, "http_client", lambda self: Client())
    return made


@pytest.mark.parametrize("after", [False, True])
def test_killed_between_every_two_calls(tmp_path, monkeypatch, after):
    call, ended, seen = 0, False, set()
    while not ended:
        ledger = Ledger(tmp_path / f"{call}.sqlite", budget=None)
        with BatchServer(say=say, fates=["expired"], polls=2) as server:
            with monkeypatch.context() as patch:
                made = dying(patch, call, after)
                try:
                    ask(questions(10), at(server), ledger)
                    ended = True
                except Killed:
                    seen.add(made[-1].split("/batch_")[0])
            replies = ask(questions(10), at(server), Ledger(ledger.path))
            assert texts(replies) == [[f"question {i} ü: 0.0"] for i in range(10)]
            assert server.billed == 10, f"killed at {made[-1]}: paid twice"
            assert [len(x) for x in server.lines] == [10, 5], f"killed at {made[-1]}: sent twice"
        assert not ledger.open_batches(server.url, "m")
        call += 1
    assert {"POST /v1/files", "POST /v1/batches", "GET /v1/batches"} <= seen
    assert call > 10


ASKING = """
import sys
from pathlib import Path
from helpers.chat import batch_api
from helpers.chat.client import ask
from helpers.chat.endpoint import Endpoint
from helpers.chat.replies import Request
from helpers.chat.ledger import Ledger
batch_api.POLL = 0.05
where = Endpoint(base_url=sys.argv[1], model="m", key_env="TEST_KEY", batch_api=True)
first, last = int(sys.argv[3]), int(sys.argv[4])
some = [Request([{"role": "user", "content": f"question {i} ü"}]) for i in range(first, last)]
outcomes = ask(some, where, Ledger(Path(sys.argv[2])), role="judge")
assert all(outcome.first for outcome in outcomes)
"""


def process(server, path, first, last):
    command = [sys.executable, "-c", ASKING, server.url, str(path), str(first), str(last)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("call", ["POST /v1/files", "POST /v1/batches", "GET batch", "GET content"])
def test_sigkill_when_the_provider_has_done_it_and_we_do_not_know(ledger, call):
    with BatchServer(say=say, polls=1) as server:

        def kill(name):
            if name == call and child.poll() is None:
                child.send_signal(signal.SIGKILL)
                child.wait()

        server.hook = kill
        child = process(server, ledger.path, 0, 10)
        child.wait(timeout=60)
        assert child.returncode == -signal.SIGKILL, child.stderr.read()
        child.stderr.close()
        assert states(ledger) == {"sent": 10}, "the intent stands in the ledger"
        replies = ask(questions(10), at(server), ledger)
        assert texts(replies) == [[f"question {i} ü: 0.0"] for i in range(10)]
        assert (server.billed, len(server.batches)) == (10, 1)


def test_two_processes_share_batches(ledger):
    """What the one has sent the other waits for."""
    with BatchServer(say=say, polls=20) as server:
        children = [process(server, ledger.path, *some) for some in ((0, 30), (10, 40))]
        for child in children:
            _, errors = child.communicate(timeout=60)
            assert child.returncode == 0, errors
        assert server.billed == 40
        assert sum(map(len, server.lines)) == 40
        assert states(ledger) == {"replied": 40}


# ---- with and without batches ----


def test_a_run_without_batches_collects_them_and_pays_nothing_twice(ledger):
    with BatchServer(say=say, polls=10**9) as server:
        server.hook = lambda call: (
            os.kill(os.getpid(), signal.SIGINT) if call == "GET batch" else None
        )
        with pytest.raises(KeyboardInterrupt):
            ask(questions(10), at(server), ledger)
        server.hook = lambda call: None
        with pytest.raises(
            UserError,
            match="has not ended; with batch_api: true",
        ) as failure:
            ask(questions(12), at(server, batch_api=False), ledger)
        one_sentence(failure)
        received = server.received
        server.polls = 0
        assert all(
            len(some) == 1 for some in ask(questions(12), at(server, batch_api=False), ledger)
        )
        assert server.received <= received + 2
        assert server.billed == 12


# ---- money ----


def test_a_batch_costs_half(ledger, priced):
    with BatchServer(say=say) as server:
        ask(questions(10, n=3), at(server), ledger)
    assert ledger.spent() == pytest.approx(10 * (7 * 1.0 + 3 * 2.0) / 2 / 1e6)


def test_a_budget_is_reserved_for_the_whole_batch(tmp_path, priced):
    most = money.most(
        {"messages": questions(1)[0].messages, "max_tokens": 1024}, money.Price(0.5, 1.0)
    )
    budget, spent = 3.5 * most, []
    ledger = Ledger(tmp_path / "ledger.sqlite", budget=budget)
    with BatchServer(say=say) as server:
        server.hook = lambda call: spent.append(Ledger(ledger.path).spent())
        assert all(len(some) == 1 for some in ask(questions(9), at(server), ledger))
        assert [len(x) for x in server.lines] == [3, 3, 3], (
            "as many as there was room for, then what became free"
        )
        assert max(spent) <= budget
        assert ledger.spent() == pytest.approx(9 * (7 * 0.5 + 1.0) / 1e6)
        poor = Ledger(ledger.path, budget=ledger.spent() + most / 2)
        with pytest.raises(UserError, match="budget = ") as failure:
            ask(questions(12), at(server), poor)
        assert len(server.lines) == 3
    one_sentence(failure)
