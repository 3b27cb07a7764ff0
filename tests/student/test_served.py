"""Students behind a real server: two turns, samples, seeds, and all that goes wrong.

`transformers serve` with toy models, and vLLM where `VLLM` names its program.
"""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from helpers import evaluate
from helpers.chat import client
from helpers.chat.conversation import converse
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request, identity
from helpers.errors import UserError
from helpers.paths import ROOT
from helpers.profile import schema
from helpers.profile.load import load_profile
from helpers.student.served import Served
from helpers.student.server import Server, arguments, check
from helpers.task.prompts import generation_turns
from helpers.task.queries import evaluation_queries
from helpers.training.recipe import fingerprint
from helpers.world.endpoint import Rates, serve
from tests.faults.server import Server as FaultyServer
from tests.student.students import BASE, request, texts
from tests.toys import toy

SERVE = "transformers serve {model} --port {port} --device cpu --log-level error"
VLLM = os.environ.get("VLLM", "")
SERVE_VLLM = (
    f"env VLLM_TARGET_DEVICE=cpu VLLM_CPU_KVCACHE_SPACE=1 {VLLM} serve {{model}}"
    " --served-model-name {name} --host 127.0.0.1 --port {port} --dtype {dtype}"
    " --max-model-len 512 --generation-config vllm"
)
with_vllm = pytest.mark.skipif(not VLLM, reason="VLLM=<path of a vllm program> is not set")
SMOKE = load_profile("smoke")["03_grade/base"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    # 32: the least that the attention of vLLM on a CPU takes.
    return toy(tmp_path_factory.mktemp("llama"), "llama", head_dim=32)


def served(path, folder, ledger="l", command=SERVE, **settings):
    # This server keeps one random state for all requests: a seed holds only for one at a time.
    known = {
        "base_url": "http://127.0.0.1:9/v1",
        "model": path,
        "max_tokens": 8,
        "takes_n": False,
        "free": True,
        "concurrency": 1,
        "top_p": 1.0,
        "weights": f"served:{fingerprint(path)}",
    }
    values = {"model": path, "name": "toy", "dtype": "float32", "port": "{port}"}
    return Served(
        path,
        Endpoint(**known | settings),
        Ledger(folder / f"{ledger}.sqlite"),
        command=arguments(command, values) if command else [],
        output=folder / "server.txt",
        start_seconds=settings.get("timeout", 240),
    )


def requests(n, word="sewing"):
    return [request(f"Write about {word} {i // 2}.", 100 * (i % 2)) for i in range(n)]


def replied(ledger):
    summary = ledger.summary()
    return int(summary.attempts[summary.state == "replied"].sum())


def family(process):
    return [process, *process.children(recursive=True)]


def processes_of(student):
    return family(psutil.Process(student.server.process.pid))


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
        processes = processes_of(student)
        assert len(processes) > 1, "the server runs while it is asked, and a guard"
        running = {"command": "", "base_url": student.endpoint.base_url}
        with served(path, tmp_path, "another seed", **running, seed=1) as other:
            assert talk(other) != first
        with served(path, tmp_path, "b", **running) as other:
            assert talk(other) == first, "the same seeds, the same answers"
        # Asked for three at once it gives one, so an endpoint of this kind declares
        # takes_n: false; the rest is asked for alone.
        with served(path, tmp_path, "n", **running, takes_n=True) as other:
            three = Request(request("Write.").messages, n=3)
            (outcome,) = client.ask([three], other.endpoint, other.ledger, role="student")
            assert len({reply.text for reply in outcome.usable}) == replied(other.ledger) == 3
    assert gone(processes), "it ends with everything it started"
    for conversation in first:
        assert [m["role"] for m in conversation.messages] == ["user", "assistant"] * 2
        assert conversation.cut, "a toy never ends by itself within 8 tokens"
    answers = [tuple(m["content"] for m in c.messages[1::2]) for c in first]
    for query in (0, 1):
        assert len(set(answers[query::2])) == 3, "each replicate has a seed of its own"
    with served(path, tmp_path, "a", command="false {model} {port}") as student:
        assert talk(student) == first
        assert student.server is None, "all is stored: no server is started"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "name"),
    [(SERVE, None), pytest.param(SERVE_VLLM, "toy", marks=with_vllm)],
    ids=["transformers", "vllm"],
)
def test_the_server_dies_and_comes_back(command, name, llama, tmp_path):
    known = {"command": command, "model": name or llama}
    with served(llama, tmp_path, **known) as student:
        student.ask(requests(2))

        def kill():
            while replied(Ledger(tmp_path / "l.sqlite")) < 12:
                time.sleep(0.01)
            student.server.process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(
            UserError,
            match=r"ended while it was asked \(exit -9\); its output is in .* and ends: ",
        ):
            student.ask(requests(400))
        killer.join()
    before = replied(Ledger(tmp_path / "l.sqlite"))
    assert 12 <= before < 400
    with served(llama, tmp_path, **known) as student:
        again = texts(student.ask(requests(before + 6)))
        assert replied(student.ledger) == before + 6, "nothing stored is asked again"
        running = {"command": "", "model": known["model"], "base_url": student.endpoint.base_url}
        with served(llama, tmp_path, "straight", **running) as other:
            assert texts(other.ask(requests(before + 6))) == again


@pytest.mark.slow
def test_another_model_and_one_that_does_not_sample(llama, tmp_path):
    other = toy(tmp_path / "other", "llama", seed=1)
    command = f"sh -c 'exec transformers serve {other} --port {{port}} --device cpu' {{model}}"
    with served(llama, tmp_path, command=command) as student:
        with pytest.raises(
            UserError,
            match=rf"{llama} at .* refuses what it is asked: .*Server is pinned to '{other}'",
        ):
            student.ask(requests(2))
        processes = processes_of(student)
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
            pytest.raises(UserError, match=r"the server of gpt at .* refuses what it is asked: "),
        ):
            student.ask(requests(2))
    with (
        served(llama, tmp_path, "c", command="", base_url=address) as student,
        pytest.raises(UserError, match=r"the server of .* at .* does not answer"),
    ):
        student.ask(requests(2))


def test_too_long_a_prompt_is_a_sentence_before_anything_starts(llama, tmp_path):
    """The server itself would go on beyond the model's 512 positions without a word."""
    with served(llama, tmp_path) as student:
        with pytest.raises(
            UserError,
            match=r"a prompt of \d+ tokens and new_tokens = 8 are more than its context of 512",
        ):
            student.ask([*requests(1), request("loom " * 200)])
        assert student.server is None


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "no-such-command {model} {port}",
            r"did not come up \(exit 127\); .* ends: .*no-such-command: not found",
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
        processes = []
        if student.server.process.poll() is None:
            processes = processes_of(student)
    assert "\n" not in str(error.value)
    assert gone(processes)


CHILD = """
import sys
from pathlib import Path
from helpers.student.child_process import ChildProcess
server = ChildProcess(["sh", "-c", "sleep 300 & sleep 300"], Path(sys.argv[1]))
try:
    server.process.wait()
finally:
    server.end()
"""


@pytest.mark.parametrize(
    ("who", "number"),
    [
        pytest.param("starter", signal.SIGINT, marks=pytest.mark.slow),
        ("starter", signal.SIGKILL),
        ("server", signal.SIGKILL),
        ("guard", signal.SIGKILL),
    ],
)
def test_whoever_is_killed_no_server_is_left(who, number, tmp_path):
    """Nor what it has started."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, tmp_path / "server.txt"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    below = []
    while sum(p.name() == "sleep" for p in below) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        below = psutil.Process(child.pid).children(recursive=True)
    guard = next(p for p in below if p.name() == "sh" and not p.children())
    {"starter": child, "server": below[0], "guard": guard}[who].send_signal(number)
    if who == "guard":
        child.send_signal(signal.SIGINT)  # the server is there still, and ended by its starter
    child.wait()
    assert gone(below)


def test_an_endpoint_that_answers_tasks_only(tmp_path):
    """`make serve`: it is looked for with a task of the run, and refuses anything else."""
    server = serve(0, Rates())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    known = {"command": "", "base_url": address, "model": "teacher", "max_tokens": 120}
    (query,) = evaluation_queries(SMOKE.pools()["I"], 2, 1, seed=0, setting="I")
    task = request(generation_turns(query, SMOKE.pack())[0])
    with served(BASE, tmp_path, **known) as student:
        (text,) = texts(student.ask([task]))
    assert "Answer:" in text
    with (
        served(BASE, tmp_path, "b", **known) as student,
        pytest.raises(
            UserError,
            match=r"teacher at .* refuses what it is asked: .*the embedded world answers",
        ),
    ):
        student.ask(requests(2))
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("temperature", [None, 0.0, 0.7])
def test_hot_only_where_it_samples(temperature, llama, tmp_path):
    """A model that takes no temperature is sent none; one that is not sampled gets no hot probe."""
    known = {"command": "", "model": "gpt", "temperature": temperature}
    with FaultyServer() as server:
        with served(llama, tmp_path, base_url=server.url, **known) as student:
            student.ask(requests(2))
        bodies = server.bodies
    hot = [body for body in bodies if body.get("temperature", 0) > 1]
    assert len(hot) == (3 if temperature else 0)
    assert len(bodies) == len(hot) + 3, "one to see whether it is up, and the two requests"
    assert all(("temperature" in body) == (temperature is not None) for body in bodies)
    assert bodies[0]["messages"] == requests(1)[0].messages, "a task of the run"


class Loading(FaultyServer):
    """Turns its first requests away, until it has loaded its model."""

    def take(self, body):
        if self.received == 3:
            self.faults = {}
        return super().take(body)


@pytest.mark.parametrize("fault", ["503", "429"])
def test_a_server_that_is_loading_is_waited_for(fault, llama, tmp_path, monkeypatch):
    monkeypatch.setattr("helpers.student.served.EVERY", 0.01)
    known = {"command": "", "model": "gpt", "temperature": None}
    with Loading({fault: 1}) as server:
        with served(llama, tmp_path, base_url=server.url, **known) as student:
            assert len(texts(student.ask(requests(2)))) == 2
        assert server.received == 3 + 1 + 2, "it asks three times, then once more, then the run"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("503", r"did not answer within 0 s \(HTTP 503\)"),
        ("429", r"did not answer within 0 s \(HTTP 429\)"),
        ("500", r"does not answer \(HTTP 500\)"),
    ],
)
def test_a_server_that_goes_on_to_fail_is_a_sentence_with_its_status(fault, said, llama, tmp_path):
    known = {"command": "", "model": "gpt", "temperature": None, "timeout": 0.2}
    with (
        FaultyServer({fault: 1}) as server,
        served(llama, tmp_path, base_url=server.url, **known) as student,
        pytest.raises(UserError, match=said),
    ):
        student.ask(requests(2))


def test_no_temperature_is_for_servers():
    check("", Server(base_url="http://127.0.0.1:8000/v1"), None)
    with pytest.raises(UserError, match="temperature = null is for a server"):
        check("", Server(), None)


def test_answers_are_stored_under_the_weights(llama, tmp_path):
    """Another checkpoint under the same name does not read them; the same one elsewhere does."""
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
            role="student",
        )
        assert texts(student.ask(requests(1))) == ["said before"]
    with served(
        llama, tmp_path, model="elsewhere", base_url="http://127.0.0.1:7/v1", command=""
    ) as student:
        assert texts(student.ask(requests(1))) == ["said before"]
    other = toy(tmp_path / "other", "llama", seed=1)
    with (
        served(other, tmp_path, model="student", command="") as student,
        pytest.raises(UserError, match=r"the server of .* at .* does not answer"),
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
    tasks = evaluate.tasks(p)
    with evaluate.student(p, ledger) as student:
        conversations = evaluate.answers(p, tasks, student)
    records = evaluate.evaluate(p, tasks, conversations, ledger)
    assert [r["generation"] for r in records] == [0, 1, 2]
    assert (tmp_path / "run/serving/base.txt").exists()
    again = p.model_copy(update={"serve": "false {model} {port}"})
    with evaluate.student(again, ledger) as student:
        assert evaluate.answers(again, tasks, student) == conversations


@pytest.mark.slow
@with_vllm
def test_a_base_through_vllm_scores_as_in_this_process(tmp_path, monkeypatch):
    """Its points over 120 answers differ by less than three standard errors."""
    monkeypatch.setattr("helpers.paths.run", lambda profile: tmp_path / "run")
    few = {"evaluation_ks": [1, 2], "evaluation_queries": 20, "settings": ["I"], "gradings": 1}
    here = {**SMOKE.model_dump(), **few}
    server = {"concurrency": 64, "timeout": 120.0}
    means = []
    for changes in ({}, {"serve": SERVE_VLLM, "server": server}):
        p = schema.Grade.of({**here, **changes})
        ledger = Ledger(tmp_path / f"{len(means)}.sqlite")
        tasks = evaluate.tasks(p)
        with evaluate.student(p, ledger) as student:
            conversations = evaluate.answers(p, tasks, student)
        records = evaluate.evaluate(p, tasks, conversations, ledger)
        points = [r["grades"]["first"]["points"] for r in records]
        shares = [sum(given) / len(given) for given in points if given]
        assert len(shares) > 100
        means.append((statistics.mean(shares), statistics.variance(shares) / len(shares)))
    (ours, a), (theirs, b) = means
    assert abs(ours - theirs) < 3 * (a + b) ** 0.5


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("vllm serve {model}", r"\{port\} missing"),
        ("vllm serve --port {port}", r"\{model\} missing"),
        (
            "vllm serve {model} --port {prot}",
            r"the fields are \{model\} and \{name\} and \{port\} and \{dtype\}, .*'prot' cannot",
        ),
        ("vllm serve {model} --port {port} --override '{\"a\": 1}'", "cannot be filled"),
        ("vllm serve {model} --port {port} 'x", "No closing quotation"),
    ],
)
def test_a_wrong_command_is_a_sentence(command, said):
    with pytest.raises(UserError, match=said):
        arguments(command, dict.fromkeys(("model", "name", "port", "dtype"), "x"))
