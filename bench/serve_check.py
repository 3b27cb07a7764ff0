"""Tries what a server can do, before a paid or long run, and says what to write into the YAML.

`make serve-check SERVE="<command>"` starts any server as 03_grade would, with the embedded base or
MODEL=<folder>; URL=<address> MODEL=<name> asks one that runs. Prints a table and the lines of YAML
that follow from it. On a paid endpoint it costs some 200 answers of at most 64 tokens.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import openai

from helpers import paths
from helpers.chat import client
from helpers.chat.endpoint import Endpoint, secret_of
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Request
from helpers.errors import UserError
from helpers.student.served import Served
from helpers.student.server import arguments

BASE = str(paths.ROOT / "helpers/world/weights/three")
TASK = "Topic: sewing\nSkills: metaphor, simile"  # as the miniature's prompts put it
TOKENS = 64  # of an answer, at most
CONCURRENCY = {1: 4, 16: 32, 64: 128}  # requests at once: requests in all
SCHEMA = {
    "type": "object",
    "properties": {"point": {"type": "integer", "enum": [0, 1]}},
    "required": ["point"],
    "additionalProperties": False,
}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


class Server:
    """Asks one server directly, and says what came of it."""

    def __init__(self, endpoint: Endpoint, api: openai.OpenAI, context: int):
        self.endpoint = endpoint
        self.api = api
        self.context = context  # tokens that the model can attend to

    def post(self, **body) -> openai.types.chat.ChatCompletion:
        defaults = {"model": self.endpoint.model, "messages": [user(TASK)], "max_tokens": TOKENS}
        return self.api.post(
            "/chat/completions",
            body={**defaults, **body},
            cast_to=openai.types.chat.ChatCompletion,
        )

    def texts(self, **body) -> list[str | None]:
        return [choice.message.content for choice in self.post(**body).choices]

    def several(self) -> str:
        texts = self.texts(n=3, temperature=1.0)
        return f"{len(texts)} of 3, {len(set(texts))} different"

    def seeds(self) -> str:
        first, again, other = (self.texts(seed=s, temperature=1.0) for s in (1, 1, 2))
        equal = "the same text" if first == again else "other texts"
        return f"{equal}; another seed: {'the same text' if first == other else 'another text'}"

    def seed_among_others(self) -> str:
        """Eight requests at once, each with its seed, against the same alone."""
        alone = [self.texts(seed=i, temperature=1.0, top_p=1.0)[0] for i in range(8)]
        together = answers(self.endpoint, 8, at_once=8, temperature=1.0, prompt=TASK, tokens=TOKENS)
        kept = sum(text in together for text in alone)
        return f"{kept} of 8 as when asked alone"

    def temperature(self) -> str:
        cold = {self.texts(temperature=0.0, seed=i)[0] for i in range(3)}
        hot = {self.texts(temperature=1.5, seed=i)[0] for i in range(3)}
        return f"0: {len(cold)} of 3 different; 1.5: {len(hot)} of 3 different"

    def top_p(self) -> str:
        texts = {self.texts(temperature=1.5, top_p=1e-6, seed=i)[0] for i in range(3)}
        return "kept to" if len(texts) == 1 else f"ignored ({len(texts)} of 3 different at 1e-6)"

    def schema(self) -> str:
        schema = {"name": "verdict", "strict": True, "schema": SCHEMA}
        wanted = {"type": "json_schema", "json_schema": schema}
        texts = [self.texts(response_format=wanted, seed=i, temperature=1.0)[0] for i in range(3)]
        return f"{'enforced' if all(map(fits, texts)) else 'ignored'} ({texts[0]!r:.40})"

    def two_turns(self) -> str:
        answer = {"role": "assistant", "content": "Answer: The needle is a storm."}
        texts = self.texts(messages=[user(TASK), answer, user(TASK)])
        return "answered" if texts[0] else "an empty answer"

    def too_long(self) -> str:
        choice = self.post(messages=[user("sewing " * self.context)]).choices[0]
        return f"answered all the same ({choice.message.content!r:.40})"

    def wrong_name(self) -> str:
        return f"answered all the same ({self.texts(model='no-such-model')[0]!r:.40})"

    def cut(self) -> str:
        return f"finish_reason {self.post(max_tokens=3).choices[0].finish_reason}"


def context_of(model: str) -> int:
    """A checkpoint's context, in tokens; for a model that is elsewhere, more than most have."""
    config = Path(model) / "config.json"
    if not config.is_file():
        return 20_000
    return json.loads(config.read_text()).get("max_position_embeddings", 20_000)


def fits(text: str | None) -> bool:
    try:
        verdict = json.loads(text or "")
    except ValueError:
        return False
    return isinstance(verdict, dict) and verdict.keys() == {"point"} and verdict["point"] in (0, 1)


def answers(
    endpoint: Endpoint,
    n: int,
    *,
    at_once: int,
    temperature: float = 0.7,
    prompt: str = "",
    tokens: int = TOKENS,
) -> list[str]:
    """The texts of n requests through the project's own client, with a temporary ledger."""
    changes = {"concurrency": at_once, "temperature": temperature, "max_tokens": tokens}
    requests = [Request([user(prompt or f"{TASK}, number {i}")], replicate=i) for i in range(n)]
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        outcomes = client.ask(
            requests, endpoint.model_copy(update=changes), ledger, role="student", re_asks=0
        )
    return [outcome.first.text for outcome in outcomes if outcome.first]


def look(server: Server) -> dict[str, str]:
    """What the server does, row by row; a refusal is a finding too."""
    ways = {
        "n = 3": server.several,
        "the same seed twice": server.seeds,
        "seeds among other requests": server.seed_among_others,
        "temperature": server.temperature,
        "top_p": server.top_p,
        "JSON schema": server.schema,
        "two turns": server.two_turns,
        "a prompt too long": server.too_long,
        "a wrong name": server.wrong_name,
        "an answer cut": server.cut,
    }
    rows = {}
    for name, way in ways.items():
        try:
            rows[name] = way()
        except openai.APIStatusError as error:
            rows[name] = f"HTTP {error.status_code}: {' '.join(str(error.body).split())[:100]}"
        except (openai.OpenAIError, UserError) as error:
            rows[name] = f"failed: {type(error).__name__} {' '.join(str(error).split())[:100]}"
        print(f"| {name} | {rows[name]} |", flush=True)
    return rows


def speed(endpoint: Endpoint) -> dict[int, float]:
    """Answers a second by the number of requests at once."""
    rates = {}
    for at_once, n in CONCURRENCY.items():
        start = time.perf_counter()
        got = len(answers(endpoint, n, at_once=at_once))
        rates[at_once] = got / (time.perf_counter() - start)
        print(f"| answers a second, {at_once} at once | {rates[at_once]:.1f} |", flush=True)
    return rates


def advice(rows: dict[str, str], rates: dict[int, float]) -> str:
    """The lines of YAML that follow; the first two belong into a student's `server`."""
    # More at once only where it brings a tenth more.
    best = max(rates.values())
    if not best:
        raise UserError("every answer was empty, so nothing can be said of this server")
    at_once = min(c for c, rate in rates.items() if rate > 0.9 * best)
    several = rows["n = 3"] == "3 of 3, 3 different"
    seeds = rows["the same seed twice"] == "the same text; another seed: another text"
    among = rows["seeds among other requests"].startswith("8 of 8")
    schema = rows["JSON schema"].startswith("enforced")
    note = "" if among or not seeds else "  # alone; among other requests a seed does not hold"
    if rows["temperature"].endswith("1.5: 1 of 3 different"):
        note = "  # and it does not sample as it is asked: 03_grade refuses it"
    lines = [
        f"takes_seed: {str(seeds).lower()}{note}",
        f"concurrency: {at_once}",
        f"takes_n: {str(several).lower()}  # of a teacher or judge",
        f"json_schema: {str(schema).lower()}  # of a judge",
    ]
    return "\n".join(lines)


def main(serve: str, url: str, model: str) -> None:
    known = {"takes_n": False, "free": True, "max_tokens": TOKENS, "key_env": "STUDENT_API_KEY"}
    known |= {"timeout": 120.0, "top_p": 1.0, "temperature": None}
    names = {"model": model or BASE, "name": "student", "dtype": "float32", "port": "{port}"}
    command = arguments(serve, names) if serve else []
    name = "student" if "{name}" in serve else names["model"]
    endpoint = Endpoint(base_url=url or "http://127.0.0.1/v1", model=name, **known)
    output = paths.run("bench") / "serve-check.txt"
    with Served("", endpoint, None, command=command, output=output) as student:
        start = time.monotonic()
        student.start(Request([user(TASK)]))
        endpoint = student.endpoint
        print("| | |\n| --- | --- |")
        print(f"| up after | {time.monotonic() - start:.0f} s |", flush=True)
        api = openai.OpenAI(
            base_url=endpoint.base_url,
            api_key=secret_of(endpoint) or "none",
            max_retries=0,
            timeout=endpoint.timeout,
        )
        rows = look(Server(endpoint, api, context_of(names["model"])))
        print(f"\n{advice(rows, speed(endpoint))}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What a server does, and the YAML for it.")
    parser.add_argument("--serve", default=os.environ.get("SERVE", ""))
    parser.add_argument("--url", default=os.environ.get("URL", ""))
    parser.add_argument("--model", default=os.environ.get("MODEL", ""))
    given = parser.parse_args()
    if bool(given.serve) == bool(given.url):
        sys.exit(
            'make serve-check SERVE="<command with {model} and {port}>",'
            " or URL=<address> MODEL=<name>"
        )
    try:
        main(given.serve, given.url, given.model)
    except UserError as error:
        sys.exit(str(error))
