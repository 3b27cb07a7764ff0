"""The ledger: one SQLite file a profile that holds every request and every raw reply, so that nothing is paid twice.

A row is written before its request is sent and completed, with the reply's bytes, before anyone parses them. Its key
says what was asked (endpoint, request body, replicate) and nothing about parsing: a better parser reads old replies.
Several processes may share the file.
"""

import hashlib
import json
import sqlite3
import time
from pathlib import Path

import pandas as pd

from helpers.errors import UserError

APPLICATION = 0x534B4D58  # "SKMX", in the file's header: tells our ledger from any other SQLite file
WAIT = 60  # seconds for other processes' writes
SCHEMA = """
create table attempt (
  id integer primary key,
  key text not null,            -- hash of endpoint, body and replicate
  endpoint text not null,
  model text not null,
  stage text not null,          -- teacher, judge, student
  replicate integer not null,
  body text not null,           -- the request, as JSON
  started real not null,        -- Unix time
  ended real,
  state text not null,          -- sent, replied, or why there is no reply
  request_id text,
  prompt_tokens integer,
  completion_tokens integer,
  raw blob                      -- the reply's bytes as they came
);
create index replied on attempt(key) where state = 'replied';
"""


def key(endpoint: str, body: dict, replicate: int) -> str:
    """What was asked, as a hash."""
    asked = json.dumps([endpoint, body, replicate], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(asked.encode()).hexdigest()


class Ledger:
    """Open or create the ledger at `path`.

    Raises:
        UserError: the file is damaged, is no ledger, or cannot be written.
    """

    def __init__(self, path: Path):
        self.path, self.db = path, None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # One connection serves a notebook's thread and the client's; never both at once.
            self.db = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            self._prepare()
        except (sqlite3.Error, OSError) as e:
            if self.db:
                self.db.close()  # and with it the files that SQLite lays beside ours
            raise UserError(f"{path}: cannot be used as a ledger ({e}); mend it or move it away, nothing was asked") from None

    def _prepare(self) -> None:
        """Create the table in an empty file; a file that is not ours is only looked at."""
        count = "select count(*) from sqlite_master"
        tables = self.db.execute(count).fetchone()[0]  # before the mark: another process may create both just now
        mark = self.db.execute("pragma application_id").fetchone()[0]
        if mark != APPLICATION and (mark or tables):
            raise sqlite3.DatabaseError("it is a database of something else")
        log = self.path.with_name(self.path.name + "-wal")  # a last page not yet whole may still stand in the log
        if self.path.stat().st_size % self.db.execute("pragma page_size").fetchone()[0] and not (log.exists() and log.stat().st_size):
            raise sqlite3.DatabaseError("its last page is torn")
        self._log_ahead()
        self.db.execute("pragma synchronous = normal")
        self.db.execute("begin immediate")
        if not self.db.execute(count).fetchone()[0]:
            for statement in SCHEMA.split(";\n"):
                self.db.execute(statement)
            self.db.execute(f"pragma application_id = {APPLICATION}")
        self.db.execute("commit")

    def _log_ahead(self) -> None:
        """Switch to write-ahead logging. Here SQLite does not wait itself for other processes that open the file just now."""
        deadline = time.monotonic() + WAIT
        while True:
            try:
                self.db.execute("pragma journal_mode = wal")
                return
            except sqlite3.OperationalError as e:
                if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _write(self, statement: str, values=(), many: bool = False):
        try:
            return (self.db.executemany if many else self.db.execute)(statement, values)
        except sqlite3.Error as e:
            raise UserError(f"{self.path}: cannot be written ({e}); replies stored so far are safe, run again to go on") from None

    def begin(self, key: str, *, endpoint: str, model: str, stage: str, replicate: int, body: dict) -> int:
        """Note that a request is about to be sent; returns the attempt's number."""
        row = (key, endpoint, model, stage, replicate, json.dumps(body, ensure_ascii=False), time.time())
        columns = "key, endpoint, model, stage, replicate, body, started, state"
        return self._write(f"insert into attempt ({columns}) values (?, ?, ?, ?, ?, ?, ?, 'sent')", row).lastrowid

    def replied(self, attempt: int, raw: bytes, *, request_id: str | None = None, usage: dict | None = None) -> None:
        """Store a reply as it came."""
        usage = usage or {}
        row = (time.time(), raw, request_id, usage.get("prompt_tokens"), usage.get("completion_tokens"), attempt)
        columns = "ended = ?, raw = ?, request_id = ?, prompt_tokens = ?, completion_tokens = ?"
        self._write(f"update attempt set state = 'replied', {columns} where id = ?", row)

    def failed(self, attempt: int, why: str) -> None:
        """Note why an attempt brought no reply."""
        self._write("update attempt set state = ?, ended = ? where id = ?", (why, time.time(), attempt))

    def store(self, rows: list[tuple[str, dict, int, bytes]], *, endpoint: str, model: str, stage: str) -> None:
        """Store a batch of (key, body, replicate, raw reply) that was made here, in one transaction."""
        now = time.time()
        values = [(k, endpoint, model, stage, r, json.dumps(b, ensure_ascii=False), now, now, raw) for k, b, r, raw in rows]
        columns = "key, endpoint, model, stage, replicate, body, started, ended, raw, state"
        self._write("begin immediate")
        try:
            self._write(f"insert into attempt ({columns}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, 'replied')", values, many=True)
            self._write("commit")
        finally:  # an interrupt, too, must not leave later rows in a transaction that nobody commits
            if self.db.in_transaction:
                self.db.execute("rollback")

    def reply(self, key: str) -> bytes | None:
        """The reply to a request that was stored first, or None."""
        query = "select raw from attempt where key = ? and state = 'replied' order by ended, id limit 1"
        try:
            row = self.db.execute(query, (key,)).fetchone()
        except sqlite3.Error as e:
            raise self._unreadable(e) from None
        return row and row[0]

    def summary(self) -> pd.DataFrame:
        """Attempts and tokens by stage, model and state."""
        counts = "count(*) attempts, sum(prompt_tokens) prompt_tokens, sum(completion_tokens) completion_tokens"
        query = f"select stage, model, state, {counts} from attempt group by stage, model, state order by stage, model, state"
        try:
            return pd.read_sql_query(query, self.db)
        except (sqlite3.Error, pd.errors.DatabaseError) as e:
            raise self._unreadable(e) from None

    def _unreadable(self, why: Exception) -> UserError:
        return UserError(f"{self.path}: cannot be read ({why}); mend it or move it away")
