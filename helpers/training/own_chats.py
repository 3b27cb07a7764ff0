"""Chats of your own to train on, in place of texts of the corpus.

They are rows with `messages`, as TRL takes them: JSON lines, or a data set that the hub's library
`datasets` reads, from a folder or from the hub.
"""

import json
import tempfile
from collections.abc import Iterator
from typing import Literal

import pydantic

from helpers.errors import UserError
from helpers.files import validated
from helpers.paths import ROOT


class Message(pydantic.BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str


class Chat(pydantic.BaseModel):
    """A row; other fields are ignored."""

    messages: list[Message] = pydantic.Field(min_length=1)


def read(source: dict[str, str]) -> list[dict]:
    """All chats, each {"messages": [...]} with role and content.

    Args:
        source: key `chats` names a file; with a key `split`, and perhaps `config`, a data set.

    Raises:
        UserError: they cannot be read, or one of them cannot be trained on; names its line.
    """
    where = f"chats = {source['chats']}"
    if "split" in source:
        lines = rows_of_data_set(source)
    else:
        try:
            lines = (ROOT / source["chats"]).read_bytes().split(b"\n")
        except OSError as error:
            raise UserError(f"{where}: cannot be read ({error.strerror})") from None
    chats = []
    for number, chat in validated(lines, Chat, where):
        if chat.messages[-1].role != "assistant":
            raise UserError(f"{where}, line {number}: its last message is not the assistant's")
        chats.append(chat.model_dump())
    if not chats:
        raise UserError(f"{where}: it holds no chats")
    return chats


def rows_of_data_set(source: dict[str, str]) -> Iterator[str]:
    """The rows of a split, as JSON."""
    name, split = source["chats"], source["split"]
    where = f"chats = {name}, split = {split}"
    try:
        import datasets  # not in requirements.txt: few need it
    except ImportError:
        raise UserError(
            f"{where}: data sets are read by a library that is not installed;"
            " .venv/bin/pip install datasets does that"
        ) from None
    with tempfile.TemporaryDirectory() as fresh:
        place, cache = name, None
        if (ROOT / name).is_dir():
            # Its own cache may hold older rows, or those of a folder of the same name and card.
            place, cache = str(ROOT / name), fresh
        try:
            rows = datasets.load_dataset(place, source.get("config"), split=split, cache_dir=cache)
            rows = rows.select_columns("messages")
        except Exception as error:  # many kinds: no such name, config, split or column; no network
            why = " ".join(str(error).split())
            raise UserError(f"{where}: the datasets library cannot read it ({why})") from None
        yield from map(json.dumps, rows)
