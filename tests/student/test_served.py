"""Students behind a real server, `transformers serve` with toy models: two turns, samples, seeds, and all that goes wrong."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from helpers import evaluate
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request, identity
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile import load, schema
from helpers.student.served import Served, arguments
from helpers.task.catalog import evaluation_queries
from helpers.task.prompts import converse
from helpers.training.recipe import fingerprint
from tests.toys import toy

SERVE = "transformers serve {model} --port {port} --device cpu --log-level error"
SMOKE = load.load("smoke")["03_grade/base"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("llama"), "llama")


def served(path, folder, ledger="l", command=SERVE, **settings):
    # One at a time: this server keeps one random state for all requests, so a seed holds only while nobody else asks.
    known = {
        "base_url": "http://127.0.0.1:9/v1",
        "model": path,
        "max_tokens": 8,
        "takes_n": False,
        "concurrency": 1,
        "top_p": 1.0,
    }
    endpoint = Endpoint(**known | {"weights": f"served:{fingerprint(path)}", **settings})
    words = (
        arguments(command, {"model": path, "name": "toy", "dtype": "float32", "port": "{port}"})
        if command
        else []
    )
    ledger = Ledger(folder / f"{ledger}.sqlite")
    return Served(
        path,
        endpoint,
        ledger,
        command=words,
        output=folder / "server.txt",
        start_seconds=settings.get("timeout", 120),
    )


def requests(n, word="sewing"):
    return [
        Request(
            [{"role": "user", "content": f"Write about {word} {i // 2}."}], replicate=100 * (i % 2)
        )
        for i in range(n)
    ]


def texts(replies):
    assert all(len(r) == 1 for r in replies)
    return [r[0].text for r in replies]


def replied(ledger):
    summary = ledger.summary()
    return int(summary.attempts[summary.state == "replied"].sum())


def family(child):
    return [child, *child.children(recursive=True)]


def gone(processes, seconds=25):
    return not psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.mark.parametrize("name", ["llama", pytest.param("mistral", marks=pytest.mark.slow)])
def test_two_turns_and_samples_by_seed(name, tmp_path):
    path = toy(tmp_path / name, name)
    queries = evaluation_queries(SMOKE.pools()["I"], 2, 2, seed=0, setting="I")

    def talk(student):
        return converse(student.ask, queries * 3, [0, 0, 1, 1, 2, 2], SMOKE.pack(), turns=2)

    with served(path, tmp_path, "a") as student:
        first = talk(student)
        processes = family(psutil.Process(student.child.pid))
        assert len(processes) > 1, "the server runs while it is asked"
        running = {"command": "", "base_url": student.endpoint.base_url}
        with served(path, tmp_path, "another seed", **running, seed=1) as other:
            assert talk(other) != first
        # Asked for three at once it gives one, so an endpoint of this kind declares takes_n: false; the rest is asked for alone.
        with served(path, tmp_path, "n", **running, takes_n=True) as other:
            (three,) = other.ask([Request([{"role": "user", "content": "Write."}], n=3)])
            assert len({r.text for r in three}) == replied(other.ledger) == 3
    assert gone(processes), "it ends with everything it started"
    assert all([m["role"] for m in messages] == ["user", "assistant"] * 2 for messages, _ in first)
    assert all(cut for _, cut in first), "a toy never ends by itself within 8 tokens"
    said = [tuple(m["content"] for m in messages[1::2]) for messages, _ in first]
    assert len(set(said[::2])) == len(set(said[1::2])) == 3, "each replicate has a seed of its own"
    with served(path, tmp_path, "b") as student:
        assert talk(student) == first, "the same seeds, the same answers"
    with served(path, tmp_path, "a", command="false {model} {port}") as student:
        assert talk(student) == first
        assert student.child is None, "all is stored: no server is started"


@pytest.mark.slow
def test_the_server_dies_and_comes_back(llama, tmp_path):
    with served(llama, tmp_path) as student:
        student.ask(requests(2))

        def kill():
            while replied(Ledger(tmp_path / "l.sqlite")) < 12:
                time.sleep(0.01)
            os.kill(psutil.Process(student.child.pid).children()[0].pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(
            UserError,
            match=r"the server of .* ended \(exit 137\) while it was asked; its output is in .*server.txt and ends: ",
        ):
            student.ask(requests(400))
        killer.join()
    before = replied(Ledger(tmp_path / "l.sqlite"))
    assert 12 <= before < 400
    with served(llama, tmp_path) as student:
        again = texts(student.ask(requests(before + 6)))
        assert replied(student.ledger) == before + 6, "nothing stored is asked again"
    with served(llama, tmp_path, "straight") as student:
        assert texts(student.ask(requests(before + 6))) == again


@pytest.mark.slow
def test_another_model_and_one_that_does_not_sample(llama, tmp_path):
    other = toy(tmp_path / "other", "llama", seed=1)
    command = f"sh -c 'exec transformers serve {other} --port {{port}} --device cpu' {{model}}"
    with served(llama, tmp_path, command=command) as student:
        with pytest.raises(
            UserError, match=rf"does not serve {llama}.*Server is pinned to '{other}'"
        ):
            student.ask(requests(2))
        processes = family(psutil.Process(student.child.pid))
    assert gone(processes)
    assert replied(student.ledger) == 0
    greedy = Path(shutil.copytree(llama, tmp_path / "greedy"))
    (greedy / "generation_config.json").write_text(
        (greedy / "generation_config.json")
        .read_text()
        .replace('"do_sample": true', '"do_sample": false')
    )
    with (
        served(str(greedy), tmp_path) as student,
        pytest.raises(UserError, match="gives the same words to every seed at temperature 2"),
    ):
        student.ask(requests(2))
    assert replied(student.ledger) == 0


def test_one_that_runs_already(llama, tmp_path):
    """By its address: found, a wrong name refused, gone."""
    with served(llama, tmp_path, "a") as owner:
        owner.ask(requests(2))
        address = owner.endpoint.base_url
        with served(llama, tmp_path, "b", command="", base_url=address) as student:
            assert texts(student.ask(requests(2))) == texts(owner.ask(requests(2)))
        with (
            served(llama, tmp_path, "c", command="", base_url=address, model="gpt") as student,
            pytest.raises(UserError, match="does not serve gpt"),
        ):
            student.ask(requests(2))
    with (
        served(llama, tmp_path, "c", command="", base_url=address) as student,
        pytest.raises(UserError, match="no server answers there"),
    ):
        student.ask(requests(2))


def test_too_long_a_prompt_is_a_sentence_before_anything_starts(llama, tmp_path):
    """The server itself would go on beyond the model's 512 positions without a word."""
    with served(llama, tmp_path) as student:
        with pytest.raises(
            UserError,
            match=r"a prompt of \d+ tokens and new_tokens = 8 are more than its context of 512",
        ):
            student.ask([*requests(1), Request([{"role": "user", "content": "loom " * 200}])])
        assert student.child is None


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "no-such-command {model} {port}",
            r"did not come up \(exit 127\); .* ends: no-such-command: No such file or directory",
        ),
        (
            "sh -c 'echo CUDA out of memory; exit 3' {model} {port}",
            r"did not come up \(exit 3\); .* ends: CUDA out of memory",
        ),
        (
            "sh -c 'echo loading; sleep 300' {model} {port}",
            r"did not answer within 3 s; .* ends: loading",
        ),
    ],
)
def test_a_server_that_does_not_come_up_is_a_sentence(command, said, llama, tmp_path):
    with served(llama, tmp_path, command=command, timeout=3.0) as student:
        with pytest.raises(UserError, match=said) as error:
            student.ask(requests(2))
        processes = (
            family(psutil.Process(student.child.pid)) if student.child.poll() is None else []
        )
    assert "\n" not in str(error.value)
    assert gone(processes)


CHILD = """
import sys
from pathlib import Path
from tests.test_serving import requests, served
with served(sys.argv[1], Path(sys.argv[2]), command="sh -c 'sleep 300 & sleep 300' {model} {port}") as student:
    student.ask(requests(2))
"""


@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_whoever_started_it_is_stopped_or_killed(number, llama, tmp_path):
    command = [sys.executable, "-c", CHILD, llama, tmp_path]
    child = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    deadline, parent, below = time.monotonic() + 60, psutil.Process(child.pid), []
    while sum(p.name() == "sleep" for p in below) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        below = parent.children(recursive=True)
    child.send_signal(number)
    child.wait()
    assert gone(below)


def test_answers_are_stored_under_the_weights(llama, tmp_path):
    """Another checkpoint under the same name does not read them; the same one at another address does."""
    with served(llama, tmp_path, model="student", command="") as student:
        body = {
            "model": "student",
            "messages": requests(1)[0].messages,
            "max_tokens": 8,
            "temperature": 0.7,
            "top_p": 1.0,
            "seed": 0,
        }
        stored = b'{"choices": [{"message": {"content": "said before"}}]}'
        student.ledger.store(
            [(identity(student.endpoint, body, 0), body, 0, stored)],
            endpoint="x",
            model="student",
            stage="student",
        )
        assert texts(student.ask(requests(1))) == ["said before"]
    with served(
        llama, tmp_path, model="elsewhere", base_url="http://127.0.0.1:7/v1", command=""
    ) as student:
        assert texts(student.ask(requests(1))) == ["said before"]
    other = toy(tmp_path / "other", "llama", seed=1)
    with (
        served(other, tmp_path, model="student", command="") as student,
        pytest.raises(UserError, match="no server answers there"),
    ):
        student.ask(requests(1))


def test_a_stage_serves_its_own_model(llama, tmp_path, monkeypatch):
    """The parameters of 03_grade to graded answers, and again from the ledger alone."""
    monkeypatch.setattr("helpers.paths.run", lambda profile: tmp_path / "run")
    few = {
        "evaluation_ks": [1],
        "evaluation_queries": 1,
        "settings": ["I"],
        "new_tokens": 8,
        "student": llama,
        "serve": SERVE,
    }
    p = schema.Grade.of(
        {**SMOKE.model_dump(), **few, "server": {"model": "{model}", "concurrency": 1}}
    )
    ledger = Ledger(tmp_path / "run/ledger.sqlite")
    with evaluate.student(p, ledger) as student:
        talks = evaluate.answers(p, student)
    records = evaluate.evaluate(p, talks, ledger)
    assert [r["generation"] for r in records] == [0, 1, 2]
    assert (tmp_path / "run/serving/base.txt").exists()
    again = p.model_copy(update={"serve": "false {model} {port}"})
    with evaluate.student(again, ledger) as student:
        assert evaluate.answers(again, student) == talks


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("vllm serve {model}", r"\{port\} missing"),
        ("vllm serve --port {port}", r"\{model\} missing"),
        (
            "vllm serve {model} --port {prot}",
            "'prot' cannot be filled; the fields are dtype, model, name, port",
        ),
        ("vllm serve {model} --port {port} --override '{\"a\": 1}'", "cannot be filled"),
        ("vllm serve {model} --port {port} 'x", "No closing quotation"),
    ],
)
def test_a_wrong_command_is_a_sentence(command, said):
    with pytest.raises(UserError, match=said):
        arguments(command, dict.fromkeys(("model", "name", "port", "dtype"), "x"))
