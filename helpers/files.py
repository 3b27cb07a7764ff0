"""Files that are whole or not there: written aside, then renamed. JSON lines, and checksums."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from helpers.errors import UserError


def sha256(path: Path) -> str:
    """The checksum of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a whole file. One that would stay the same is left untouched, so make runs nothing.

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
    with open(path, encoding="utf-8") as file:
        try:
            for line in file:
                rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(
                f"{path}: damaged after line {len(rows)} ({error});"
                f" move it away, and {made_by} makes it again"
            ) from None
    return rows
