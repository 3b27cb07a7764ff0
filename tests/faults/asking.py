"""Asking a server of `tests.faults`: what the chat client's tests share."""

import traceback

from helpers.chat import client
from helpers.chat.endpoint import Endpoint
from helpers.chat.replies import Request, Unreadable

SECRET = "sk-MARKED-0123456789abcdef"


def at(server, **settings):
    return Endpoint(**{"base_url": server.url, "model": "m", "key_env": "TEST_KEY", **settings})


def questions(count, **settings):
    return [
        Request([{"role": "user", "content": f"question {i}"}], **settings) for i in range(count)
    ]


def ask(requests, endpoint, ledger, *, usable=lambda request, reply: reply.text, **settings):
    """The usable replies to each request, as the judge's."""

    def read(request, reply):
        return reply if usable(request, reply) else Unreadable("of no use")

    outcomes = client.ask(requests, endpoint, ledger, role="judge", read=read, **settings)
    return [outcome.usable for outcome in outcomes]


def texts(replies):
    return [[reply.text for reply in usable] for usable in replies]


def one_sentence(failure):
    """The user's sentence; the key stands neither in it nor in the traceback."""
    sentence = str(failure.value)
    assert "\n" not in sentence
    assert len(sentence) < 700
    assert "MARKED" not in sentence + "".join(traceback.format_exception(failure.value))
    return sentence


def states(ledger):
    """How many attempts ended how."""
    return dict(ledger.db.execute("select state, count(*) from attempt group by state").fetchall())


def nowhere_in(ledger, secret="MARKED"):
    files = [path for path in ledger.path.parent.rglob("*") if path.is_file()]
    assert ledger.path in files
    assert not [path for path in files if secret.encode() in path.read_bytes()], (
        "the key stands in the ledger"
    )
