"""A student that a server runs: any OpenAI-compatible one, found at its address or started here for one checkpoint.

`with Served(...) as student` asks like `student.Student` does, through `client.ask` and the ledger. A server of our own is
started when the first answer is missing, on a free loopback port, and stopped at the end, with everything it started;
`python -m helpers.student.served <command>` is the process that sees to it, also when the notebook is killed.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import openai
import pydantic
from pydantic import Field, PositiveFloat

from helpers.chat import client
from helpers.chat.endpoint import Endpoint, host, redacted, secret_of
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Reply, Request, identity, parse, request_body
from helpers.errors import UserError
from helpers.paths import ROOT

EVERY = 0.5  # seconds between looks whether a server is up
STOPPING = 20  # seconds that a server has to end before it is killed
LAST = 8  # lines of its output that an error shows
FIELDS = {"model", "name", "port", "dtype"}


class Server(Endpoint):
    """How a student is served: `Endpoint`, with what is known only when it is asked left out."""

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


SET_ELSEWHERE = (
    "temperature",
    "top_p",
    "max_tokens",
    "seed",
    "weights",
    "takes_n",
)  # by the stage's own parameters and the student


def check(serve: str, server: Server) -> None:
    """Do the two parameters fit each other?

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    for name in SET_ELSEWHERE:
        if getattr(server, name) != Server.model_fields[name].default:
            raise UserError(
                f"server.{name} is set by the stage (temperature, top_p, new_tokens, seed, student); take it out of server"
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
    if server.base_url and not server.base_url.startswith(("http://", "https://")):
        raise UserError(
            f"server.base_url = {server.base_url!r} is not http(s)://...; the embedded world has no students"
        )


def arguments(command: str, values: dict[str, str]) -> list[str]:
    """The command's words, with {model}, {name}, {port} and {dtype} filled in; a literal brace is written twice.

    Raises:
        UserError: no {model} or no {port}, or a field that is not known.
    """
    try:
        words = [word.format(**values) for word in shlex.split(command)]
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise UserError(
            f"serve = {command!r}: {error} cannot be filled; the fields are {', '.join(sorted(FIELDS))}, braces twice"
        ) from None
    if missing := [f"{{{name}}}" for name in ("model", "port") if f"{{{name}}}" not in command]:
        raise UserError(
            f"serve = {command!r}: {' and '.join(missing)} missing; the command must say what it serves, and where"
        )
    return words


def stop(child: subprocess.Popen) -> None:
    """End a process and all of its group."""
    for number, seconds in ((signal.SIGTERM, STOPPING), (signal.SIGKILL, STOPPING)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
            break
    with contextlib.suppress(ProcessLookupError):  # what the first of them left behind
        os.killpg(child.pid, signal.SIGKILL)


class Served:
    """A checkpoint behind a server. Answers are stored under its weights, so that no other's under the same name are read."""

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        ledger: Ledger,
        *,
        command: Sequence[str] = (),
        output: Path,
        start_seconds: float = 1800.0,
    ):
        self.path, self.endpoint, self.ledger = path, endpoint, ledger
        self.command, self.output, self.start_seconds = command, output, start_seconds
        self.child: subprocess.Popen | None = None
        self.checked = False

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self.child:
            self.child.stdin.close()  # tells the keeper below, as our end would
            self.child.wait()
            self.child = None

    def ask(self, requests: Sequence[Request]) -> list[Reply | None]:
        """One reply to each request; a server is looked for, or started, only where the ledger has not all of them.

        Raises:
            UserError: the server does not come up, serves something else, does not sample, ends, or refuses a request.
        """
        endpoint = self.endpoint
        bodies = [(request_body(r, endpoint, r.replicate, 1), r.replicate) for r in requests]
        stored = [parse(self.ledger.reply(identity(endpoint, *body)) or b"") for body in bodies]
        if missing := [r for r, replies in zip(requests, stored, strict=True) if not replies]:
            self.check_room(missing)
            if not self.checked:
                self.start()
        try:  # an empty answer is an answer, as in `student.Student`
            outcomes = client.ask(
                requests,
                self.endpoint,
                self.ledger,
                role="student",
                read=lambda _, reply: reply,
                what="answers sampled",
            )
            return [outcome.first for outcome in outcomes]
        except UserError as error:
            if self.child and self.child.poll() is not None:
                raise UserError(
                    f"{self.named()} ended (exit {self.child.returncode}) while it was asked; {self.last_words()}"
                ) from error
            raise

    def check_room(self, requests: Sequence[Request]) -> None:
        """As `student.check_room`, where the checkpoint is at hand: some servers cut a long prompt off, or answer beyond the context."""
        if Path(self.path).is_dir():
            from transformers import (  # slow to load, and not needed when all is stored
                AutoConfig,
                AutoTokenizer,
            )

            from helpers.student.local import check_room, prompt_ids

            tokenizer, config = (
                AutoTokenizer.from_pretrained(self.path),
                AutoConfig.from_pretrained(self.path),
            )
            ids = [prompt_ids(tokenizer, r.messages) for r in requests]
            check_room(
                ids,
                self.endpoint.max_tokens,
                config.get_text_config().max_position_embeddings,
                self.path,
            )

    def named(self) -> str:
        return (
            f"the server of {self.endpoint.model} ({' '.join(self.command)[:200]})"
            if self.command
            else self.endpoint.base_url
        )

    def last_words(self) -> str:
        """The last lines of the server's output, in one."""
        lines = [
            " ".join(line.split())
            for line in self.output.read_text(errors="replace").splitlines()
            if line.strip()
        ]
        where = self.output.relative_to(ROOT) if self.output.is_relative_to(ROOT) else self.output
        return (
            f"its output is in {where} and ends: {' / '.join(lines[-LAST:])[-1500:] or '(nothing)'}"
        )

    def start(self) -> None:
        """Start the command, if there is one, and wait until the model answers."""
        if self.command:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            self.endpoint = self.endpoint.model_copy(
                update={"base_url": f"http://127.0.0.1:{port}/v1"}
            )
            words = [word.replace("{port}", str(port)) for word in self.command]
            here = {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
                "PYTHONPATH": str(ROOT),
            }
            self.output.parent.mkdir(parents=True, exist_ok=True)
            with open(self.output, "w") as output:
                keeper = [sys.executable, "-m", "helpers.student.served", *words]
                streams = {"stdin": subprocess.PIPE, "stdout": output, "stderr": subprocess.STDOUT}
                self.child = subprocess.Popen(
                    keeper, cwd=ROOT, env={**os.environ, **here}, start_new_session=True, **streams
                )
        deadline = time.monotonic() + (self.start_seconds if self.command else 0)
        while not self.is_up():
            if self.child and self.child.poll() is not None:
                raise UserError(
                    f"{self.named()} did not come up (exit {self.child.returncode}); {self.last_words()}"
                )
            if time.monotonic() > deadline:
                took = (
                    f"did not answer within {self.start_seconds:.0f} s; {self.last_words()}"
                    if self.command
                    else "no server answers there"
                )
                raise UserError(f"{self.named()}: {took}")
            time.sleep(EVERY)
        self.checked = True

    def is_up(self) -> bool:
        """Does the server answer as our model? Three words, as hot as can be: equal ones come from a server that does not sample.

        Raises:
            UserError: it answers, and serves something else or does not sample.
        """
        listed: list[str] = []
        key, timeout = secret_of(self.endpoint) or "none", min(60.0, self.endpoint.timeout)
        with openai.OpenAI(
            base_url=self.endpoint.base_url, api_key=key, max_retries=0, timeout=timeout
        ) as api:
            try:
                model = {
                    "model": self.endpoint.model,
                    "messages": [{"role": "user", "content": "Say a few words."}],
                }
                size = {self.endpoint.max_tokens_field: 16}
                if self.endpoint.temperature:
                    size |= {"temperature": 2.0, "top_p": 1.0}
                seeds = [{"seed": i} if self.endpoint.takes_seed else {} for i in range(3)]
                said = [
                    api.chat.completions.create(**model, **size, **seed).choices[0].message.content
                    for seed in seeds
                ]
            except openai.APIStatusError as error:
                if error.status_code in (400, 404, 422):
                    with contextlib.suppress(
                        openai.OpenAIError
                    ):  # `transformers serve` has such a list only of its download cache
                        listed = [model.id for model in api.models.list()]
                    has = f" (it lists {', '.join(listed[:5])})" if listed else ""
                    words = redacted(str(error.body or error.message), self.endpoint)[:300]
                    raise UserError(
                        f"{self.named()} does not serve {self.endpoint.model}{has}: {words}"
                    ) from None
                if error.status_code in (401, 403):
                    raise UserError(
                        f"{self.named()}: the key in {self.endpoint.key_env} was refused (HTTP {error.status_code})"
                    ) from None
                return False  # still loading
            except openai.APIConnectionError:
                return False
        if self.endpoint.temperature and len(set(said)) == 1:
            why = "it gives the same words to every seed at temperature 2, so it does not sample as it is asked"
            raise UserError(
                f"{self.named()}: {why}; `transformers serve` needs do_sample: true in the model's generation_config.json"
            )
        return True


def keep(command: list[str]) -> int:
    """Run a command until it ends, or until whoever holds our standard input is gone; then end its whole group."""
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}")
        return 127

    def watch():
        while os.read(
            0, 1
        ):  # nothing is ever written there: it returns when the other end is closed
            pass
        stop(child)

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: stop(child))
    code = child.wait()
    stop(child)
    return code if code >= 0 else 128 - code  # as a shell says that a signal ended it


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
