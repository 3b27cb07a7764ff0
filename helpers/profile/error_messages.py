"""Error messages: what is wrong with a parameter, as a sentence with file, key, what is allowed."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, get_args

import pydantic

from helpers.errors import UserError

# Parameters that have another name since it stood for two things: old name, new name.
RENAMED = {"batch": "batch_api", "max_tokens": "chat_tokens", "world": "caption"}
# Somebody may have written a key there: what stands in them is not repeated.
NEVER_SHOWN = ("key_env", "base_url")
# What a value has to be, by pydantic's type of error; pydantic's own words are for programmers.
FORMS = {
    "int_type": "it is a whole number, without quotes",
    "int_from_float": "it is a whole number",
    "int_parsing": "it is a whole number",
    "float_type": "it is a number, without quotes",
    "bool_type": "it is true or false",
    "string_type": "it is text",
    "list_type": "it is a list, as [1, 2]",
    "dict_type": "it holds keys with values, as {key: value}",
    "model_type": "it holds keys with values, as {key: value}",
}


def checked(model: type, values: dict, *, where: str | Callable):
    """An instance of the model.

    Args:
        where: the file that the values came from, or a function that gives it for a key.

    Raises:
        UserError: one sentence about what is wrong with one of the keys.
    """
    try:
        return model(**values)
    except pydantic.ValidationError as e:
        # Where a value may have two types, as `training_topics` (a number or a list), the error
        # that lies deeper is about the type that was meant; of int and float it is that of float,
        # the wider one. A misspelt key is both unknown and missing: the first is what helps.
        def rank(error: dict) -> tuple:
            kind = error["type"]
            return kind == "extra_forbidden", len(error["loc"]), kind == "float_type"

        errors = e.errors(include_url=False)
        error = max(errors, key=rank)
    words = sentence(model, values, error)
    for other in errors:  # `jobs` is a number or a word
        is_literal = other is not error and other["type"] == "literal_error"
        same_value = path_in(values, other["loc"]) == path_in(values, error["loc"])
        if error["loc"] and is_literal and same_value and other["ctx"]["expected"] != "''":
            words += f", or {other['ctx']['expected']}"
    # A validator of a whole model begins with the key.
    key = error["loc"][0] if error["loc"] else words.split()[0].rstrip(":")
    raise UserError(f"{where(key) if callable(where) else where}: {words}")


def sentence(model: type, values: dict, error: dict) -> str:
    """One of pydantic's errors, as a sentence for the user."""
    loc = error["loc"]
    name = path_in(values, loc)
    last = str(loc[-1]) if loc else ""
    message = error["msg"].removeprefix("Value error, ")
    message = FORMS.get(error["type"], message[:1].lower() + message[1:])
    if not loc:
        return message
    if error["type"] == "missing":
        if not name:
            return f"{last} is missing, there and in shared.yaml"
        return f"{name}.{last} is missing"
    if error["type"] == "extra_forbidden":
        return unknown_key(name, model_in(model.model_fields[loc[0]].annotation).model_fields)
    if last == "[key]":
        return f"{path_in(values, loc[:-2])} has a key {shown(error['input'])}: {message}"
    if name.endswith("key_env"):
        message = "it is the name of an environment variable (letters, digits, _), never a key"
    if isinstance(error["input"], dict) or name.endswith(NEVER_SHOWN):
        return f"{name} is wrong: {message}"
    return f"{name} = {shown(error['input'])} is wrong: {message}"


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
    """The pydantic model inside `dict[str, M]` or `M | None`."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((m for m in map(model_in, get_args(annotation)) if m), None)


def shown(value: Any) -> str:
    """A value as it is written, or its first 120 characters."""
    return f"{value!r:.120}"


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The sentence about a key that does not exist, with what may have been meant."""
    last, known = key.rpartition(".")[2], sorted(known)
    if RENAMED.get(last) in known:
        return f"unknown key {key}; it is called {RENAMED[last]} now"
    if near := difflib.get_close_matches(last, known, n=1):
        return f"unknown key {key}; did you mean {near[0]}?"
    return f"unknown key {key}; known keys are {', '.join(known)}"
