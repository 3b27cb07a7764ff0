"""A student behind a server: any OpenAI-compatible one, at its address or started here.

`with Served(...) as student` asks as `local.Student` does, through `chat.client` and the ledger. A
server of our own is started when the first answer is missing, on a free loopback port, and stopped
at the end, with everything it started.
"""

import math
import shlex
import socket
import time
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import openai
import pydantic
from pydantic import Field, PositiveFloat

from helpers.chat import client
from helpers.chat.endpoint import Endpoint, host, redacted, secret_of
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Outcome, Reply, Request, request_body
from helpers.errors import UserError
from helpers.student.keeper import Kept

EVERY = 0.5  # seconds between looks whether a server is up
PROBE_TOKENS = 16  # of an answer that only shows whether the server is up
FIELDS = {"model", "name", "port", "dtype"}  # of a `serve` command
# Of `server`: these the stage's own parameters and the student set.
SET_ELSEWHERE = ("temperature", "top_p", "max_tokens", "seed", "weights", "takes_n")


class Server(Endpoint):
    """How a student is served: `Endpoint`, without what is known only when it is asked."""

    base_url: str = ""  # of a server that runs already; empty where `serve` starts one
    # What requests call it: {name} is the variant, {model} the checkpoint's path.
    model: str = Field(default="{name}", pattern=r"^[^\x00-\x1f\x7f]{1,4096}$")
    # Not the teacher's; a server of your own needs none.
    key_env: str = Field(default="STUDENT_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    takes_n: bool = False
    start_seconds: PositiveFloat = 1800.0  # until a server that is started must answer

    @pydantic.model_validator(mode="before")
    @classmethod
    def _free_at_home(cls, values):
        """This machine's servers cost nothing unless `free` says so; another may be a paid API."""
        if not isinstance(values, dict):
            return values
        address = str(values.get("base_url") or "")
        return {"free": not address or not host(address).needs_key, **values}


def check(serve: str, server: Server, temperature: float | None) -> None:
    """Do these parameters of 03_grade fit each other?

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    for name in SET_ELSEWHERE:
        if getattr(server, name) != Server.model_fields[name].default:
            raise UserError(
                f"server.{name} is set by the stage (temperature, top_p, new_tokens, seed,"
                " student); take it out of server"
            )
    try:
        server.model.format(model="", name="")
    except (ValueError, KeyError, IndexError, AttributeError):
        raise UserError(
            f"server.model = {server.model!r}: the fields are {{model}} and {{name}}"
        ) from None
    if serve and server.base_url:
        raise UserError(
            "serve starts a server, and server.base_url names one that runs; keep one of them"
        )
    if serve:
        arguments(serve, dict.fromkeys(FIELDS, "x"))
    if server.base_url.startswith("world:"):
        raise UserError(
            f"server.base_url = {server.base_url!r} is not http(s)://...;"
            " the embedded world has no students"
        )
    if temperature is None and not serve and not server.base_url:
        raise UserError(
            "temperature = null is for a server whose model takes none;"
            " a student in this process is sampled at a number, 0 for the likeliest tokens"
        )


def arguments(command: str, values: dict[str, str]) -> list[str]:
    """The command's words with {model}, {name}, {port} and {dtype} filled in.

    A literal brace is written twice.

    Raises:
        UserError: no {model} or no {port}, or a field that is not known.
    """
    try:
        words = [word.format(**values) for word in shlex.split(command)]
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"serve = {command!r}: {error} cannot be filled;"
            f" the fields are {', '.join(sorted(FIELDS))}, braces twice"
        ) from None
    if missing := [f"{{{name}}}" for name in ("model", "port") if f"{{{name}}}" not in command]:
        raise UserError(
            f"serve = {command!r}: {' and '.join(missing)} missing;"
            " the command must say what it serves, and where"
        )
    return words


@dataclass
class Served:
    """A model behind a server.

    Answers of a checkpoint of ours, at `path`, are stored under its weights, so that no other's
    under the same name are read. Without a path it is somebody else's, stored as a teacher's are.
    """

    path: str
    endpoint: Endpoint
    ledger: Ledger
    _: KW_ONLY
    command: Sequence[str] = ()  # that starts the server; none for one that runs already
    output: Path  # of the command
    start_seconds: float = 1800.0
    server: Kept | None = None
    is_checked: bool = False

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self.server:
            self.server.end()

    def ask(self, requests: Sequence[Request]) -> list[Reply | None]:
        """One reply to each request; an empty answer is an answer, as in `local.Student`.

        A server is looked for, or started, only where the ledger has not all of them.

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
        try:
            outcomes = client.ask(
                requests,
                self.endpoint,
                self.ledger,
                role="student",
                read=as_it_is,
                what="answers sampled",
            )
        except UserError as error:
            raise self.ended("ended while it was asked") or error from None
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

    def name(self) -> str:
        if self.command:
            return f"the server of {self.endpoint.model} ({' '.join(self.command)[:200]})"
        return self.endpoint.base_url

    def ended(self, what: str) -> UserError | None:
        """What to say where the server that was started here has ended."""
        if self.server is None or self.server.exit_code() is None:
            return None
        code = self.server.exit_code()
        return UserError(f"{self.name()} {what} (exit {code}); {self.server.last_words()}")

    def start(self, request: Request) -> None:
        """Start the command, if there is one, and wait until the model answers `request`."""
        deadline = time.monotonic()
        if self.command:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            address = {"base_url": f"http://127.0.0.1:{port}/v1"}
            self.endpoint = self.endpoint.model_copy(update=address)
            words = [word.replace("{port}", str(port)) for word in self.command]
            self.server = Kept(words, self.output)
            deadline += self.start_seconds
        while not self.is_up(request):
            if error := self.ended("did not come up"):
                raise error
            if time.monotonic() > deadline:
                why = "no server answers there"
                if self.server:
                    seconds = f"{self.start_seconds:.0f} s"
                    why = f"did not answer within {seconds}; {self.server.last_words()}"
                raise UserError(f"{self.name()}: {why}")
            time.sleep(EVERY)
        self.is_checked = True

    def is_up(self, request: Request) -> bool:
        """Does the server answer this request as our model?

        Asked as the run will ask it, but for a few tokens; then, where the run samples, as hot as
        can be: equal answers to different seeds come from a server that does not sample. A server
        that takes no such temperature is not asked that.

        Raises:
            UserError: it answers, and serves something else or does not sample.
        """
        endpoint = self.endpoint
        body = request_body(request, endpoint, request.replicate, 1)
        body[endpoint.max_tokens_field] = min(PROBE_TOKENS, endpoint.max_tokens)
        with openai.OpenAI(
            base_url=endpoint.base_url,
            api_key=secret_of(endpoint) or "none",
            max_retries=0,
            timeout=min(60.0, endpoint.timeout),
        ) as api:
            try:
                answer(api, body)
            except openai.APIStatusError as error:
                if error.status_code in (400, 401, 403, 404, 422):
                    raise self.refusal(error) from None
                return False  # still loading
            except openai.APIConnectionError:
                return False
            if not endpoint.temperature:
                return True
            body |= {"temperature": 2.0, "top_p": 1.0}
            answers = set()
            for seed in range(3):
                if endpoint.takes_seed:
                    body["seed"] = seed
                try:
                    answers.add(answer(api, body))
                except openai.APIStatusError:
                    return True
        if len(answers) == 1:
            raise UserError(
                f"{self.name()}: it gives the same words to every seed at temperature 2, so it does"
                " not sample as it is asked; `transformers serve` needs do_sample: true in the"
                " model's generation_config.json"
            )
        return True

    def refusal(self, error: openai.APIStatusError) -> UserError:
        """What to say where the server will not answer as our model; its words say why."""
        code, endpoint = error.status_code, self.endpoint
        if code in (401, 403):
            return UserError(
                f"{self.name()}: the key in {endpoint.key_env} was refused (HTTP {code})"
            )
        words = redacted(str(error.body or error.message), endpoint)[:300]
        return UserError(f"{self.name()} refuses what {endpoint.model} is asked: {words}")


def as_it_is(request: Request, reply: Reply) -> Reply:
    return reply


def answer(api: openai.OpenAI, body: dict) -> str | None:
    """The text of one reply, outside of the ledger."""
    reply = api.post("/chat/completions", body=body, cast_to=openai.types.chat.ChatCompletion)
    return reply.choices[0].message.content
