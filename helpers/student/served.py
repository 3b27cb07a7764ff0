"""A student behind a server: any OpenAI-compatible one, at its address or started here.

`with Served(...) as student` asks as `local.Student` does, through `chat.client` and the ledger. A
server of our own is started when the first answer is missing, on a free loopback port, and stopped
at the end, with everything it started.
"""

import math
import socket
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import openai

from helpers.chat import client
from helpers.chat.endpoint import Endpoint, host, redacted, secret_of
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Outcome, Reply, Request, request_body
from helpers.errors import UserError
from helpers.student.child_process import ChildProcess

EVERY = 0.5  # seconds between looks whether a server is up
PROBE_TOKENS = 16  # of an answer that only shows whether the server is up
# What a server, or a proxy before it, says while the model is loading or too many ask.
NOT_YET = (408, 429, 502, 503, 504)


@dataclass
class Served:
    """A model behind a server.

    Answers of a checkpoint at `path` are stored under the fingerprint of its weights, so that those
    of another model with the same name are never taken for them. Without a path the model is
    somebody else's, and its answers are stored under address and name, as a teacher's are.
    """

    path: str
    endpoint: Endpoint
    ledger: Ledger
    _: KW_ONLY
    command: Sequence[str] = ()  # that starts the server; none for one that runs already
    output: Path  # the file that the command's output goes to
    start_seconds: float = 1800.0
    server: ChildProcess | None = None
    is_checked: bool = False

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self.server:
            self.server.end()

    def ask(self, requests: Sequence[Request]) -> list[Reply | None]:
        """One reply to each request; an empty answer is an answer, as in `local.Student`.

        A server is looked for, or started, only if the ledger lacks a reply.

        Raises:
            UserError: the server does not come up, serves something else, does not sample, ends, or
                refuses a request.
        """
        missing = [r for r in requests if Outcome(r, self.endpoint, as_it_is).look(self.ledger)]
        if missing:
            self.check_room(missing)
            # One that costs money is not probed: its first reply shows as much.
            is_ours = self.endpoint.free and not host(self.endpoint.base_url).free
            if not self.is_checked and (self.command or is_ours):
                self.start(missing[0])
        settings = {"role": "student", "read": as_it_is, "what": "answers sampled"}
        try:
            outcomes = client.ask(requests, self.endpoint, self.ledger, **settings)
        except UserError:
            self.check_alive("ended while it was asked")
            raise
        return [outcome.first for outcome in outcomes]

    def check_room(self, requests: Sequence[Request]) -> None:
        """Refuse too long a prompt, where the checkpoint is at hand.

        Some servers cut a long prompt off, or answer beyond the context.
        """
        if not self.path or not Path(self.path).is_dir():
            return
        # Slow to load, and not needed when all is stored.
        from transformers import AutoConfig

        from helpers.student.local import check_room, prompt_ids
        from helpers.training.data import load_tokenizer

        tokenizer = load_tokenizer(self.path)
        config = AutoConfig.from_pretrained(self.path).get_text_config()
        prompts = [prompt_ids(tokenizer, r.messages) for r in requests]
        context = getattr(config, "max_position_embeddings", None) or math.inf
        check_room(prompts, self.endpoint.max_tokens, context, self.path)

    def failure(self, what: str) -> UserError:
        words = f"; {self.server.last_words()}" if self.server else ""
        where = f"the server of {self.endpoint.model} at {self.endpoint.base_url}"
        return UserError(f"{where} {what}{words}")

    def check_alive(self, what: str) -> None:
        """Raises a UserError where the server that was started here has ended."""
        code = self.server.process.poll() if self.server else None
        if code is not None:
            raise self.failure(f"{what} (exit {code})") from None

    def start(self, request: Request) -> None:
        """Start the command, if there is one, and wait until the model answers `request`.

        It is asked as the run will ask it, but for a few tokens.
        """
        if self.command:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = str(free.getsockname()[1])
            address = {"base_url": f"http://127.0.0.1:{port}/v1"}
            self.endpoint = self.endpoint.model_copy(update=address)
            self.server = ChildProcess(
                [w.replace("{port}", port) for w in self.command], self.output
            )
        few = {"max_tokens": min(PROBE_TOKENS, self.endpoint.max_tokens)}
        endpoint = self.endpoint.model_copy(update=few)
        with openai.OpenAI(
            base_url=endpoint.base_url,
            api_key=secret_of(endpoint) or "none",
            max_retries=0,
            timeout=min(60.0, endpoint.timeout),
        ) as api:
            self.wait(api, request_body(request, endpoint, request.replicate, 1))
            if endpoint.temperature:
                hot = endpoint.model_copy(update={"temperature": 2.0, "top_p": 1.0})
                self.check_sampling(api, [request_body(request, hot, i, 1) for i in range(3)])
        self.is_checked = True

    def wait(self, api: openai.OpenAI, body: dict) -> None:
        """Wait until the server answers.

        Raises:
            UserError: it refuses, has ended, or takes too long; or there is none.
        """
        deadline = time.monotonic() + self.start_seconds
        while True:
            try:
                answer(api, body)
                return
            except openai.APIStatusError as error:
                status = error.status_code
                if status < 500 and status not in NOT_YET:
                    words = redacted(str(error.body or error.message), self.endpoint)
                    raise self.failure(f"refuses what it is asked: {words}") from None
                is_coming = status in NOT_YET
                said = f" (HTTP {status})"
            except openai.APIConnectionError:
                is_coming = False
                said = ""
            self.check_alive("did not come up")
            if not self.server and not is_coming:
                raise self.failure(f"does not answer{said}")
            if time.monotonic() > deadline:
                raise self.failure(f"did not answer within {self.start_seconds:.0f} s{said}")
            time.sleep(EVERY)

    def check_sampling(self, api: openai.OpenAI, bodies: Sequence[dict]) -> None:
        """Check that different seeds get different answers, at temperature 2.

        Nothing is checked at a server that refuses so high a temperature.
        """
        try:
            answers = {answer(api, body) for body in bodies}
        except openai.APIError:
            return
        if len(answers) == 1:
            raise self.failure(
                "gives the same words to every seed at temperature 2, so it does not sample as it"
                " is asked; `transformers serve` needs do_sample: true in the model's"
                " generation_config.json"
            )


def as_it_is(request: Request, reply: Reply) -> Reply:
    return reply


def answer(api: openai.OpenAI, body: dict) -> str | None:
    """The text of one reply, outside of the ledger."""
    reply = api.post("/chat/completions", body=body, cast_to=openai.types.chat.ChatCompletion)
    return reply.choices[0].message.content
