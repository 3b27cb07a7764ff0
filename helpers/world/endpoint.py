"""Teacher and judge of the embedded world: an OpenAI-compatible chat endpoint, in process or as a server on loopback.

It answers on the prompt's text alone: lines `Topic: ...` and `Skills: ...` or `Show: ...`, and, to be graded, a text between two equal
marked lines with `- criterion` lines after it. A reply is a pure function of the request's body and the choice's
index. Teacher and judge err at known rates, set in the address (`world:?drop=0.1`) or on the server's command line.
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
from helpers.task.wording import NUMBERS
from helpers.world import detectors, language

MODELS = ("teacher", "judge")


@dataclasses.dataclass(frozen=True)
class Rates:
    """Probabilities of the errors that teacher and judge make."""

    drop: float = 0.08  # teacher: a skill is forgotten (twice as often in a first draft)
    overrun: float = 0.05  # teacher: one sentence too many
    stray: float = 0.03  # teacher: the text is about another topic
    flip: float = 0.02  # judge: a criterion's point is turned round
    lenient: float = 0.0  # judge: a missing skill gets its point all the same
    shape: float = 0.15  # judge: a list instead of a table
    unreadable: float = 0.02  # judge: no grade, or one cut off

    def __post_init__(self):
        for name, rate in vars(self).items():
            if not 0 <= rate <= 1:
                raise UserError(f"world: {name} = {rate} is no probability; use 0 to 1")


def rates_of(address: str) -> Rates:
    """The rates in an address `world:?name=value&...`.

    Raises:
        UserError: an unknown name, or a value that is no probability.
    """
    known = [f.name for f in dataclasses.fields(Rates)]
    given = urllib.parse.parse_qsl(address.partition("?")[2])
    for name, value in given:
        if name not in known or not re.fullmatch(r"\d*\.?\d+", value):
            raise UserError(
                f"{address}: {name}={value} is no error rate of the embedded world; the rates are {', '.join(known)}"
            )
    return Rates(**{name: float(value) for name, value in given})


class Refusal(Exception):
    """An HTTP 400: the world cannot answer this prompt."""


def bare(name: str) -> str:
    """A skill's or topic's name as the world knows it: lower case, up to the first parenthesis."""
    return name.split("(")[0].strip().lower()


def subject(prompt: str) -> tuple[str, list[str]]:
    """Topic and skills that a prompt names."""
    topic, skills = (
        re.search(r"^Topic: (.+)$", prompt, re.M),
        re.search(r"^(?:Skills|Show): (.+)$", prompt, re.M),
    )
    if not topic or not skills:
        raise Refusal(
            "the embedded world answers prompts with a line 'Topic: ...' and a line 'Skills: ...' or 'Show: ...'"
        )
    names = [bare(s) for s in skills[1].split(", ")]
    for kind, asked, known in (
        ("topic", [bare(topic[1])], language.TOPICS),
        ("skill", names, language.PHRASINGS),
    ):
        if unknown := [x for x in asked if x not in known]:
            raise Refusal(
                f"the embedded world does not know the {kind} {', '.join(unknown)}; it knows {', '.join(known)}"
            )
    return bare(topic[1]), names


def written(rng: random.Random, messages: list[dict], rates: Rates) -> str:
    """The teacher's text: a draft on the first turn, a better one when told to improve it."""
    topic, skills = subject(messages[0]["content"])
    turns, last = [m for m in messages if m["role"] == "user"], messages[-1]["content"]
    draft = len(turns) == 1
    if rng.random() < rates.stray:
        topic = rng.choice([t for t in language.TOPICS if t != topic])
    shown = [s for s in skills if rng.random() >= rates.drop * (2 if draft else 1)] or skills[:1]
    said = re.search(r"at most (\w+) sentence", last)
    most = NUMBERS.index(said[1]) if said and said[1] in NUMBERS else len(skills)
    most = min(most, len(shown))
    clauses = [language.clause(rng, topic, s) for s in shown]
    if rng.random() < rates.overrun:  # a sentence too many, with a clause nobody asked for
        clauses.append(language.clause(rng, topic, rng.choice(list(language.PHRASINGS))))
        sentences = len(clauses)
    else:
        sentences = rng.randint(max(1, most - 1), most)
    text = f"Answer: {language.join(rng, clauses, sentences)}"
    asks_why = "Explanation:" in "".join(m["content"] for m in turns)
    return text + f"\nExplanation: the text shows {', '.join(shown)}." if asks_why else text


def judged(criterion: str, *, topic: str, skills: list[str], text: str) -> bool:
    """Does the text meet the criterion?"""
    words = criterion.lower()
    named = [s for s in skills if s in words]
    if named:
        return detectors.shows(max(named, key=len), text)
    if "sentence" in words:
        most = next((i for i, n in enumerate(NUMBERS) if re.search(rf"\b{n}\b", words)), 1)
        return len(re.findall(r"[.!?](?:\s|$)", text)) <= most
    if "sense" in words:
        return detectors.makes_sense(text)
    return detectors.on_topic(topic, text)


def graded(
    rng: random.Random, prompt: str, rates: Rates, *, by_schema: bool = False
) -> tuple[str, str]:
    """The judge's reply, in JSON where a schema is asked for, and its finish reason."""
    topic, skills = subject(prompt)
    marked = re.search(r"^(=+ \w+ =+)\n(.*)\n\1$(.*)", prompt, re.M | re.S)
    criteria = re.findall(r"^- (.+)$", marked[3], re.M)
    points = {}
    for criterion in criteria:
        met = judged(criterion, topic=topic, skills=skills, text=marked[2])
        if rng.random() < rates.flip:
            met = not met
        points[criterion] = int(
            met or (criterion in criteria[: len(skills)] and rng.random() < rates.lenient)
        )
    shape, bad = rng.random() < rates.shape, rng.random() < rates.unreadable
    if by_schema:
        reasons = {0: "The text does not.", 1: "The text does."}
        grades = {c: {"reason": reasons[p], "point": p} for c, p in points.items()}
        reply = json.dumps(grades, ensure_ascii=False)
        return (reply[: len(reply) // 2], "length") if bad else (reply, "stop")
    if bad and shape:
        return "I am sorry, but you have not provided the student's answer.", "stop"
    if shape:
        reply = (
            "\n".join(f"{i}. {c}. Point earned: {p}" for i, (c, p) in enumerate(points.items(), 1))
            + f"\nGrade: {sum(points.values())}"
        )
    else:
        rows = [f"| {c} | {p} |" for c, p in points.items()]
        reply = "\n".join(
            [
                "| Criteria | Points Earned |",
                "| --- | --- |",
                *rows,
                f"| Total Points Earned | {sum(points.values())} |",
            ]
        )
    if bad:  # cut off before the last skill's row
        return reply[: reply.index(criteria[len(skills) - 1])], "length"
    return reply, "stop"


def text_of(message: dict) -> str:
    """A message's text, which may come as a list of parts."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise Refusal("a message needs a content of text")
    return content


def complete(body: dict, rates: Rates) -> tuple[int, dict]:
    """HTTP status and JSON of the reply to a chat completion request."""
    messages, n = body.get("messages"), body.get("n", 1)
    if body.get("model") not in MODELS:
        return 404, {
            "error": {
                "message": f"no model {body.get('model')!r} here; the models are {', '.join(MODELS)}",
                "code": "model_not_found",
            }
        }
    if not messages or not isinstance(n, int) or not 1 <= n <= 128:
        return 400, {"error": {"message": "messages must not be empty and n must be 1 to 128"}}
    seed = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    choices, tokens = [], 0
    try:
        messages = [{**message, "content": text_of(message)} for message in messages]
        for i in range(n):
            rng = random.Random(f"{seed}/{i}")
            if re.search(r"^=+ \w+ =+$", messages[-1]["content"], re.M):
                by_schema = "response_format" in body
                text, finish = graded(rng, messages[-1]["content"], rates, by_schema=by_schema)
            else:
                text, finish = written(rng, messages, rates), "stop"
            choices.append(
                {
                    "index": i,
                    "finish_reason": finish,
                    "message": {"role": "assistant", "content": text},
                }
            )
            tokens += len(text.split())
    except Refusal as refusal:
        return 400, {"error": {"message": str(refusal)}}
    prompt_tokens = sum(len(m["content"].split()) for m in messages)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens,
        "total_tokens": prompt_tokens + tokens,
    }
    whole = {
        "id": f"world-{seed[:12]}",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": choices,
        "usage": usage,
    }
    return 200, whole


@functools.cache
def version() -> str:
    """A hash of the code that decides what teacher and judge say.

    Replies are stored under it: another world's replies are not this one's.
    """
    folder = Path(__file__).parent
    files = [folder / name for name in ("language.py", "detectors.py", "endpoint.py")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


class Transport(httpx2.AsyncBaseTransport):
    """The endpoint as a transport of the HTTP client: no socket, everything else as over the network."""

    def __init__(self, rates: Rates):
        self.rates = rates

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/v1/chat/completions":
            return httpx2.Response(
                404, json={"error": {"message": f"no {request.url.path} here"}}, request=request
            )
        status, reply = complete(json.loads(request.content), self.rates)
        return httpx2.Response(status, json=reply, request=request)


class World:
    """The address `world:?rate=value&...`, in process; `helpers.chat.endpoint.Network` is its like.

    Raises:
        UserError: an error rate that the world does not have.
    """

    url = "http://world/v1"
    free = True
    needs_key = False
    reply_seconds = (0.001, 0.01)

    def __init__(self, address: str):
        self.rates = rates_of(address)
        self.provider = f"{address}#{version()}"

    def check(self, model: str, skills: Iterable[str], topics: Iterable[str]) -> None:
        """Does the world have this model, and know what it will be asked?

        Raises:
            UserError: it does not.
        """
        mend_model = f"one of the models {', '.join(MODELS)}"
        mend_catalog = "take skills and topics of params/catalog/miniature"
        for kind, names, known, mend in (
            ("model", [model], MODELS, mend_model),
            ("skill", skills, language.PHRASINGS, mend_catalog),
            ("topic", topics, language.TOPICS, mend_catalog),
        ):
            for name in names:
                if name not in known:
                    raise UserError(
                        f"base_url = world: has no {kind} {name}; name another server there, or {mend}"
                    )

    def http_client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=Transport(self.rates))


def serve(port: int, rates: Rates) -> ThreadingHTTPServer:
    """The endpoint as a server on loopback; port 0 takes a free one. The caller runs `serve_forever`."""

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
            listed = {"object": "list", "data": [{"id": m, "object": "model"} for m in MODELS]}
            self.answer(
                *(
                    (200, listed)
                    if self.path == "/v1/models"
                    else (404, {"error": {"message": f"no {self.path} here"}})
                )
            )

        def do_POST(self):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path != "/v1/chat/completions":
                return self.answer(404, {"error": {"message": f"no {self.path} here"}})
            try:
                body = json.loads(content)
            except ValueError:
                return self.answer(400, {"error": {"message": "the body is not JSON"}})
            return self.answer(*complete(body, rates))

        def log_message(self, *_):
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
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
    except UserError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(
            f"port {port} of loopback: {error.strerror}; name another with --port, or as make serve PORT=..."
        )
    print(
        f"models {', '.join(MODELS)} at http://127.0.0.1:{server.server_address[1]}/v1 (Ctrl-C ends it)",
        flush=True,
    )
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
