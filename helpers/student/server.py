"""How a student is served: the parameters of `served.Served`, and whether they fit each other."""

import shlex

import pydantic
from pydantic import Field, PositiveFloat

from helpers.chat.endpoint import Endpoint, host
from helpers.errors import UserError

# Not to be set in `server`: the stage's own parameters, or the student, say what these are.
SET_ELSEWHERE = ("temperature", "top_p", "max_tokens", "seed", "weights", "takes_n")


class Server(Endpoint):
    """How a student is served: `Endpoint`, without what is known only when it is asked."""

    base_url: str = ""  # of a server that runs already; empty where `serve` starts one
    # What requests call it: {name} is the variant, {model} the checkpoint's path.
    model: str = Field(default="{name}", pattern=r"^[^\x00-\x1f\x7f]{1,4096}$")
    # Not the teacher's; a server of your own needs none.
    key_env: str = Field(default="STUDENT_API_KEY", pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    takes_n: bool = False
    start_seconds: PositiveFloat = 1800.0  # until one that is started, or is loading, must answer

    @pydantic.model_validator(mode="before")
    @classmethod
    def _free_at_home(cls, values):
        """This machine's servers cost nothing unless `free` says so; another may be a paid API."""
        if not isinstance(values, dict):
            return values
        address = str(values.get("base_url") or "")
        if address.startswith("world:"):
            raise ValueError("the embedded world has no students")
        return {"free": not address or not host(address).needs_key, **values}


def check(serve: str, server: Server, temperature: float | None) -> None:
    """Check that these parameters of 03_grade fit each other.

    Raises:
        UserError: one sentence about the first thing that is wrong.
    """
    for name in SET_ELSEWHERE:
        if getattr(server, name) != Server.model_fields[name].default:
            raise UserError(
                f"server.{name} is set by the stage (temperature, top_p, new_tokens, seed,"
                " student); take it out of server"
            )
    filled("server.model", server.model, model="", name="")
    if serve and server.base_url:
        raise UserError(
            "serve starts a server, and server.base_url names one that runs; keep one of them"
        )
    if serve:
        arguments(serve, {"model": "x", "name": "x", "port": "x", "dtype": "x"})
    if temperature is None and not serve and not server.base_url:
        raise UserError(
            "temperature = null is for a server whose model takes none;"
            " a student in this process is sampled at a number, 0 for the likeliest tokens"
        )


def filled(what: str, text: str, **values: str) -> str:
    """A text with its fields, {model} or another, filled in; a literal brace is written twice.

    Raises:
        UserError: a field that is not known.
    """
    try:
        return text.format(**values)
    except (ValueError, LookupError, AttributeError) as error:
        fields = " and ".join(f"{{{name}}}" for name in values)
        raise UserError(
            f"{what} = {text!r}: the fields are {fields}, braces twice; {error} cannot be filled"
        ) from None


def arguments(command: str, values: dict[str, str]) -> list[str]:
    """The command's words with {model}, {name}, {port} and {dtype} filled in.

    Raises:
        UserError: no {model} or no {port}, a field that is not known, or a quote left open.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"serve = {command!r}: {error}") from None
    words = [filled("serve", word, **values) for word in words]
    for field in ("{model}", "{port}"):
        if field not in command:
            raise UserError(f"serve = {command!r}: {field} missing; it must say what, and where")
    return words
