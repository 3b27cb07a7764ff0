"""Files that are whole or not there: written aside, then renamed. JSON lines, and checksums."""

import filecmp
import hashlib
import json
import os
from pathlib import Path

from helpers.errors import UserError


def sha256(path: Path) -> str:
    """The checksum of a file's bytes, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json_lines(path: Path, rows: list[dict]) -> None:
    """Write one JSON object a line. A file that would stay the same is left untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(aside, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.exists() and filecmp.cmp(aside, path, shallow=False):
        aside.unlink()
    else:
        aside.replace(path)


def read_json_lines(path: Path, made_by: str) -> list[dict]:
    """The rows of a file.

    Raises:
        UserError: there is no such file yet; says which stage makes it.
    """
    if not path.exists():
        raise UserError(f"{path}: not there yet; run {made_by} first")
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]
