"""Asking a server of `tests.faults`: what the chat client's tests share."""

import os
import subprocess
import sys
import traceback

from helpers.chat import client
from helpers.chat.endpoint import Endpoint
from helpers.chat.replies import Request, Unreadable
from helpers.paths import ROOT

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


def run_together(code: str, *arguments: str) -> None:
    """Run code in two processes, named a and b by their last argument, to their good end.

    Each prints `ready` and waits for a line, so that both go on at the same moment.
    """
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    pipes |= {"cwd": ROOT, "env": {**os.environ, "PYTHONPATH": str(ROOT)}, "text": True}
    command = [sys.executable, "-c", code, *arguments]
    both = [subprocess.Popen([*command, name], **pipes) for name in "ab"]
    for child in both:
        assert child.stdout.readline() == "ready\n", child.stderr.read()
    for child in both:
        child.stdin.write("\n")
        child.stdin.flush()
    for child in both:
        _, said = child.communicate(timeout=60)
        assert child.returncode == 0, said
