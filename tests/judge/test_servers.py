"""Structured verdicts against real servers: a toy with random weights writes none by itself."""

import os

import pytest

from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request
from helpers.errors import UserError
from helpers.judge import structured
from helpers.judge.grade import grade
from helpers.student.served import Served
from helpers.student.server import arguments
from helpers.task.points import Rules
from tests.toys import toy

QUOTE = 4  # the toy's token for a quotation mark; favoured, or its reasons would be endless


@pytest.fixture
def served(tmp_path):
    """Starts a server on a toy: `served(command)` is one that runs."""
    model = toy(tmp_path / "toy", "mistral", head_dim=32, max_position_embeddings=8192)

    def start(command: str) -> Served:
        words = {"model": model, "name": "toy", "dtype": "float32", "port": "{port}"}
        endpoint = Endpoint(
            base_url="http://127.0.0.1:9/v1",
            model="toy" if "{name}" in command else model,
            json_schema=True,
            takes_n=False,
            max_tokens=2000,
            temperature=1.0,
            extra_body={"logit_bias": {str(QUOTE): 6}} if "{name}" in command else {},
        )
        server = Served(
            model,
            endpoint,
            Ledger(tmp_path / "unused.sqlite"),
            command=arguments(command, words),
            output=tmp_path / "server.txt",
            start_seconds=400,
        )
        server.start(Request([{"role": "user", "content": "Write."}]))
        return server

    return start


@pytest.fixture
def ask(packs, query, tmp_path):
    def ask(judge, ledger):
        queries = [query("metaphor", topic=topic) for topic in ("sewing", "chess")]
        stored = Ledger(tmp_path / f"{ledger}.sqlite")
        settings = {"gradings": 3, "rules": Rules()}
        return grade(queries, ["The needle turns."] * 2, packs["json"], judge, stored, **settings)

    return ask


@pytest.mark.slow
def test_vllm_enforces_the_schema(served, ask, monkeypatch):
    """Readable only because the server enforces it: the same toy, not held to it, writes noise."""
    if "VLLM" not in os.environ:
        pytest.skip("VLLM=<path of a vllm program> is not set")
    on_cpu = "env VLLM_TARGET_DEVICE=cpu VLLM_CPU_KVCACHE_SPACE=1"
    serve = "serve {model} --served-model-name {name} --host 127.0.0.1 --port {port}"
    options = "--dtype {dtype} --max-model-len 8192 --generation-config vllm"
    with served(f"{on_cpu} {os.environ['VLLM']} {serve} {options}") as server:
        graded = ask(server.endpoint, "enforced")
        assert [len(g.gradings) for g in graded] == [3, 3]
        assert [g.unreadable for g in graded] == [[], []]
        assert len({g.numbers[:-1] for gs in graded for g in gs.gradings}) > 1, "noise, in its form"
        monkeypatch.setattr(structured, "schema_of", lambda criteria: None)
        with pytest.raises(UserError, match="did not keep to the JSON schema"):
            ask(server.endpoint.model_copy(update={"max_tokens": 50}), "not enforced")


@pytest.mark.slow
def test_transformers_serve_does_not_and_ends_in_one_sentence(served, ask):
    serve = "transformers serve {model} --port {port} --device cpu --log-level error"
    with served(serve) as server:
        judge = server.endpoint.model_copy(update={"max_tokens": 50, "concurrency": 1})
        with pytest.raises(UserError, match="did not keep to the JSON schema of response_format"):
            ask(judge, "one")
        assert Ledger(server.output.with_name("one.sqlite")).summary().attempts.sum() <= 3
