"""The embedded world as an OpenAI-compatible chat endpoint, in process or as a server on loopback.

A reply is a pure function of the request's body and the choice's index. Teacher and judge (`roles`)
err at known rates, set in the address: `world:?drop=0.1`.
"""

import functools
import hashlib
import json
import random
import urllib.parse
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pydantic
from pydantic import Field

from helpers.errors import UserError, command
from helpers.world import language, roles
from helpers.world.roles import Rates

MODELS = ("teacher", "judge")


class Part(pydantic.BaseModel):
    """Of a message's content, which may come in parts."""

    text: str = ""


class Message(pydantic.BaseModel):
    role: str
    content: str | list[Part]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class Body(pydantic.BaseModel):
    """What is read of a chat completion request."""

    model: str
    messages: list[Message] = Field(min_length=1)
    n: int = Field(1, ge=1, le=128)
    response_format: Any = None


def rates_of(address: str) -> Rates:
    """The rates in an address `world:?name=value&...`.

    Raises:
        UserError: an unknown name, or a value that is no probability.
    """
    rates = urllib.parse.parse_qsl(address.partition("?")[2])
    try:
        return Rates.model_validate(dict(rates))
    except pydantic.ValidationError:
        raise UserError(
            f"{address}: the rates are {', '.join(Rates.model_fields)}; each is a number, 0 to 1"
        ) from None


def complete(body: dict, rates: Rates) -> tuple[int, dict]:
    """HTTP status and JSON of the reply to a chat completion request."""
    seed = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    try:
        asked = Body.model_validate(body)
        turns = [message.text for message in asked.messages if message.role == "user"]
        replies = []
        for i in range(asked.n):
            rng = random.Random(f"{seed}/{i}")
            by_schema = asked.response_format is not None
            replies.append(roles.reply(rng, turns, rates, by_schema=by_schema))
    except pydantic.ValidationError as e:
        first = e.errors()[0]
        return error(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except roles.Refusal as refusal:
        return error(400, str(refusal))
    if asked.model not in MODELS:
        return error(404, f"no model {asked.model!r} here; the models are {', '.join(MODELS)}")
    choices = []
    for i, (text, finish) in enumerate(replies):
        message = {"role": "assistant", "content": text}
        choices.append({"index": i, "finish_reason": finish, "message": message})
    prompt_tokens = sum(len(message.text.split()) for message in asked.messages)
    reply_tokens = sum(len(text.split()) for text, _ in replies)
    return 200, {
        "id": f"world-{seed[:12]}",
        "object": "chat.completion",
        "created": 0,
        "model": asked.model,
        "choices": choices,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": reply_tokens,
            "total_tokens": prompt_tokens + reply_tokens,
        },
    }


def error(status: int, message: str) -> tuple[int, dict]:
    """HTTP status and JSON of a refusal."""
    return status, {"error": {"message": message}}


def respond(path: str, content: bytes, rates: Rates) -> tuple[int, dict]:
    """HTTP status and JSON of the reply to any request."""
    if path == "/v1/models":
        models = [{"id": model, "object": "model"} for model in MODELS]
        return 200, {"object": "list", "data": models}
    if path != "/v1/chat/completions":
        return error(404, f"no {path} here")
    try:
        body = json.loads(content)
    except ValueError:
        return error(400, "the body is not JSON")
    return complete(body, rates)


@functools.cache
def version() -> str:
    """A hash of the code and words that decide what teacher and judge say.

    Replies are stored under it: another world's replies are not this one's.
    """
    names = ("language.py", "language.yaml", "detectors.py", "roles.py", "endpoint.py")
    code = b"".join(Path(__file__).with_name(name).read_bytes() for name in names)
    return hashlib.sha256(code).hexdigest()[:12]


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
        try:
            roles.check_known("model", [model], MODELS)
            roles.check_known("skill", skills, language.PHRASINGS)
            roles.check_known("topic", topics, language.TOPICS)
        except roles.Refusal as refusal:
            raise UserError(f"base_url = world: {refusal}; or name another server there") from None

    def http_client(self) -> httpx2.AsyncClient:
        """One that reaches no network: all else is as with any server."""
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self.answer))

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        status, reply = respond(request.url.path, request.content, self.rates)
        return httpx2.Response(status, json=reply)


def serve(port: int, rates: Rates) -> ThreadingHTTPServer:
    """The endpoint as a server on loopback; port 0 takes a free one.

    The caller runs `serve_forever`.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, reply = respond(self.path, content, rates)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            answer = json.dumps(reply).encode()
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self):
            self.do_POST()

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main(port: str, address: str = "world:") -> None:
    """Serve the world of an address on loopback, until interrupted."""
    rates = rates_of(address)
    try:
        server = serve(int(port), rates)
    except (OSError, ValueError, OverflowError) as e:
        raise UserError(
            f"port {port} of loopback: {e}; name another, as make serve PORT=..."
        ) from None
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    print(f"models {', '.join(MODELS)} at {url} (Ctrl-C ends it)", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    command(main)
