"""The embedded world as an OpenAI-compatible chat endpoint, in process or as a server on loopback.

A reply is a pure function of the request's body and the choice's index. Teacher and judge (`roles`)
err at known rates, set in the address (`world:?drop=0.1`) or on the server's command line.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import random
import re
import sys
import urllib.parse
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2

from helpers.errors import UserError
from helpers.world import language, roles
from helpers.world.roles import Rates

MODELS = ("teacher", "judge")


def rates_of(address: str) -> Rates:
    """The rates in an address `world:?name=value&...`.

    Raises:
        UserError: an unknown name, or a value that is no probability.
    """
    known = [field.name for field in dataclasses.fields(Rates)]
    rates = urllib.parse.parse_qsl(address.partition("?")[2])
    for name, value in rates:
        if name not in known or not re.fullmatch(r"\d*\.?\d+", value):
            raise UserError(
                f"{address}: {name}={value} is no error rate of the embedded world;"
                f" the rates are {', '.join(known)}"
            )
    return Rates(**{name: float(value) for name, value in rates})


def text_of(message: dict) -> str:
    """A message's text, which may come as a list of parts."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise roles.Refusal("a message needs a content of text")
    return content


def complete(body: dict, rates: Rates) -> tuple[int, dict]:
    """HTTP status and JSON of the reply to a chat completion request."""
    model, messages, n = body.get("model"), body.get("messages"), body.get("n", 1)
    if model not in MODELS:
        message = f"no model {model!r} here; the models are {', '.join(MODELS)}"
        return 404, error(message, code="model_not_found")
    if not messages or not isinstance(n, int) or not 1 <= n <= 128:
        return 400, error("messages must not be empty and n must be 1 to 128")
    seed = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    choices = []
    reply_tokens = 0
    try:
        messages = [{**message, "content": text_of(message)} for message in messages]
        prompt = messages[-1]["content"]
        to_be_graded = re.search(r"^=+ \w+ =+$", prompt, re.M)
        for i in range(n):
            rng = random.Random(f"{seed}/{i}")
            if to_be_graded:
                by_schema = "response_format" in body
                text, finish = roles.graded(rng, prompt, rates, by_schema=by_schema)
            else:
                text, finish = roles.written(rng, messages, rates), "stop"
            message = {"role": "assistant", "content": text}
            choices.append({"index": i, "finish_reason": finish, "message": message})
            reply_tokens += len(text.split())
    except roles.Refusal as refusal:
        return 400, error(str(refusal))
    prompt_tokens = sum(len(message["content"].split()) for message in messages)
    return 200, {
        "id": f"world-{seed[:12]}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": reply_tokens,
            "total_tokens": prompt_tokens + reply_tokens,
        },
    }


def error(message: str, **more: str) -> dict:
    """The JSON of a refusal."""
    return {"error": {"message": message, **more}}


@functools.cache
def version() -> str:
    """A hash of the code that decides what teacher and judge say.

    Replies are stored under it: another world's replies are not this one's.
    """
    names = ("language.py", "detectors.py", "roles.py", "endpoint.py")
    code = b"".join((Path(__file__).parent / name).read_bytes() for name in names)
    return hashlib.sha256(code).hexdigest()[:12]


class Transport(httpx2.AsyncBaseTransport):
    """The endpoint as a transport of the HTTP client: no socket, else as over the network."""

    def __init__(self, rates: Rates):
        self.rates = rates

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        status, reply = post(request.url.path, await request.aread(), self.rates)
        return httpx2.Response(status, json=reply, request=request)


def post(path: str, content: bytes, rates: Rates) -> tuple[int, dict]:
    """HTTP status and JSON of the reply to a POST."""
    if path != "/v1/chat/completions":
        return 404, error(f"no {path} here")
    try:
        body = json.loads(content)
    except ValueError:
        return 400, error("the body is not JSON")
    return complete(body, rates)


class World:
    """The address `world:?rate=value&...`, in process; `helpers.chat.endpoint.Network` is its like.

    Raises:
        UserError: an error rate that the world does not have.
    """

    url = "http://world/v1"
    free = True
    reply_seconds = (0.001, 0.01)
    needs_key = False
    licence = "mit"  # of the texts: this repository's

    def __init__(self, address: str):
        self.rates = rates_of(address)
        self.provider = f"{address}#{version()}"

    def check(self, model: str, skills: Iterable[str], topics: Iterable[str]) -> None:
        """Does the world have this model, and know what it will be asked?

        Raises:
            UserError: it does not.
        """
        catalog = "take skills and topics of params/catalog/miniature"
        self._check("model", [model], MODELS, f"one of the models {', '.join(MODELS)}")
        self._check("skill", skills, language.PHRASINGS, catalog)
        self._check("topic", topics, language.TOPICS, catalog)

    def _check(self, kind: str, names: Iterable[str], known, mend: str) -> None:
        for name in names:
            if name not in known:
                raise UserError(
                    f"base_url = world: has no {kind} {name}; name another server there, or {mend}"
                )

    def http_client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=Transport(self.rates))


def serve(port: int, rates: Rates) -> ThreadingHTTPServer:
    """The endpoint as a server on loopback; port 0 takes a free one.

    The caller runs `serve_forever`.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, reply: dict) -> None:
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            if self.path == "/v1/models":
                models = [{"id": model, "object": "model"} for model in MODELS]
                self.answer(200, {"object": "list", "data": models})
            else:
                self.answer(404, error(f"no {self.path} here"))

        def do_POST(self):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.answer(*post(self.path, content, rates))

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(
        description="Serve the embedded world's teacher and judge on loopback."
    )
    parser.add_argument("--port", type=int, default=8008)
    for field in dataclasses.fields(Rates):
        parser.add_argument(f"--{field.name}", type=float, default=field.default)
    arguments = vars(parser.parse_args())
    port = arguments.pop("port")
    try:
        server = serve(port, Rates(**arguments))
    except UserError as wrong_rate:
        sys.exit(str(wrong_rate))
    except OSError as taken:
        sys.exit(
            f"port {port} of loopback: {taken.strerror};"
            " name another with --port, or as make serve PORT=..."
        )
    address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    print(f"models {', '.join(MODELS)} at {address} (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
