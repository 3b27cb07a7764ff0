"""Files that are whole or not there: written aside, then renamed. JSON lines, and checksums."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pydantic

from helpers.errors import UserError


def sha256(path: Path) -> str:
    """The checksum of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a whole file, unless it holds the same already: then make has nothing to run again.

    Raises:
        UserError: it cannot be written (a full disk, no permission); what was there stays.
    """
    content = text.encode()
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_bytes() == content:
            return
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None


def write_json_lines(path: Path, rows: list[dict]) -> None:
    """Write one JSON object a line, as `write_text` does."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json_lines(path: Path, made_by: str) -> list[dict]:
    """The rows of a file.

    Raises:
        UserError: there is no such file yet, or a line is damaged; says which stage makes it.
    """
    if not path.exists():
        raise UserError(f"{path}: not there yet; run {made_by} first")
    rows = []
    with open(path, "rb") as file:
        try:
            for line in file:
                row = json.loads(line.decode())
                if not isinstance(row, dict):
                    raise ValueError("not a JSON object")
                rows.append(row)
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{path}, line {len(rows) + 1}: damaged ({error});"
                f" move it away, and {made_by} makes it again"
            ) from None
    return rows


def validated(lines: Iterable[str | bytes], model: type, where: str) -> Iterator[tuple[int, Any]]:
    """Somebody else's JSON lines: each with its number from 1 on, as an instance of `model`.

    Raises:
        UserError: a line is no JSON, or not what the pydantic model asks for; begins with `where`.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, model.model_validate_json(line)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"])) or "the line"
            message = first["msg"].lower().removeprefix("value error, ")
            raise UserError(f"{where}, line {number}: {name}: {message}") from None


CARD_END = "\n<!-- As it was written: "


def write_card(path: Path, text: str) -> None:
    """Write a card (a README.md), unless somebody has edited it: then it stays as it is.

    A checksum in its last line, which is a comment, tells whether it was edited.
    """
    if path.exists():
        words, _, mark = path.read_text(encoding="utf-8").rpartition(CARD_END)
        if mark != mark_of(words):
            return
    write_text(path, f"{text}{CARD_END}{mark_of(text)}")


def mark_of(text: str) -> str:
    return f"{hashlib.sha256(text.encode()).hexdigest()[:16]} -->\n"
