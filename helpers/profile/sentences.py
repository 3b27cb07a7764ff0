"""What is wrong with a parameter, in one sentence: its file, its key, what is allowed."""

import difflib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import pydantic

from helpers.errors import UserError

# Parameters that have another name since it stood for two things: old name, new name.
RENAMED = {"batch": "batch_api", "max_tokens": "chat_tokens", "world": "caption"}
# Somebody may have written a key there: what stands in them is not repeated.
NEVER_SHOWN = ("key_env", "base_url")
LONGEST = 120  # characters of a value that are shown


def checked(model: type, values: dict, *, where: Callable[[str], Path | str]):
    """An instance of the model.

    Args:
        where: the file that a key came from, by the key's name.

    Raises:
        UserError: one sentence about what is wrong with one of the keys.
    """
    try:
        return model(**values)
    except pydantic.ValidationError as e:
        # A misspelt key is both unknown and missing: the first is what helps. Of two readings, as
        # of `training_topics` (a number or a list), the deeper error is about the one meant.
        errors = e.errors(include_url=False)
        error = max(errors, key=lambda e: (e["type"] == "extra_forbidden", len(e["loc"])))
    key = str(error["loc"][0])
    raise UserError(f"{where(key)}: {sentence(model, values, error)}")


def sentence(model: type, values: dict, error: dict) -> str:
    """An error of pydantic's as a user reads it."""
    loc = error["loc"]
    value = error["input"]
    name = path_in(values, loc)
    if error["type"] == "extra_forbidden":
        if len(loc) > 1:
            model = model_in(model.model_fields[loc[0]].annotation)
        return unknown_key(name, model.model_fields)
    if error["type"] == "missing":
        if len(loc) == 1:
            return f"{loc[0]} is missing, there and in shared.yaml"
        return f"{name}.{loc[-1]} is missing"
    message = (error["msg"][0].lower() + error["msg"][1:]).removeprefix("value error, ")
    if loc[-1] == "[key]":
        return f"{path_in(values, loc[:-2])} has a key {shown(value)}: {message}"
    last = name.rpartition(".")[2]
    if last == "key_env":
        return f"{name} is the name of an environment variable (letters, digits, _), never a key"
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", value):
        message = "YAML reads that as text; write a point in it, as 2.0e-4"
    if last in NEVER_SHOWN or (isinstance(value, dict) and value):
        return f"{name} is wrong: {message}"
    return f"{name} = {shown(value)} is wrong: {message}"


def path_in(values: Any, loc: Iterable[str | int]) -> str:
    """The keys and indices on the way to an error; pydantic's names of types are left out."""
    path = []
    for part in loc:
        try:
            values = values[part]
        except (KeyError, TypeError):
            continue
        path.append(str(part))
    return ".".join(path)


def model_in(annotation: Any) -> type | None:
    """The pydantic model inside `dict[str, Model]` or `Model | None`."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((m for m in map(model_in, get_args(annotation)) if m), None)


def shown(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]}..."


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence about a key that does not exist, with what may have been meant."""
    last, known = key.rpartition(".")[2], list(known)
    if RENAMED.get(last) in known:
        return f"unknown key {key}; it is called {RENAMED[last]} now"
    if near := difflib.get_close_matches(last, known, n=1):
        return f"unknown key {key}; did you mean {near[0]}?"
    return f"unknown key {key}; known keys are {', '.join(known)}"
