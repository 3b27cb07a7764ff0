"""The ledger: one SQLite file a profile that holds every request and every raw reply, so that nothing is paid twice.

A row is written before its request is sent and completed, with the reply's bytes, before anyone parses them. Its key
says what was asked (endpoint, request body, replicate) and nothing about parsing: a better parser reads old replies.
Several processes may share the file. `python -m helpers.ledger <profile>` prints what is in it.
"""

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from helpers import paths
from helpers.errors import UserError

APPLICATION = 0x534B4D58  # "SKMX", in the file's header: tells our ledger from any other SQLite file
VERSION = 1  # of the tables, in the file's header; 0 had no money and no batches
WAIT = 60  # seconds for other processes' writes
RUN = "STAGE_RUN"  # environment variable, set by `helpers.stage`: whose attempts these are
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
# What version 1 adds. `dollars` is what the attempt cost or, while that is not known, the most that it can cost; null
# where the model's price is unknown. Triggers keep their sum, so that a budget needs no look at other rows.
ADDED = """
alter table attempt add column run text;
alter table attempt add column batch integer;
alter table attempt add column dollars real;
create index of_run on attempt(run) where run is not null;
create index of_batch on attempt(batch) where batch is not null;
create index unpriced on attempt(model) where dollars is null;
create table spent (dollars real not null);
insert into spent values (0);
create trigger reserve after insert on attempt when new.dollars > 0 begin
  update spent set dollars = dollars + new.dollars; end;
create trigger settle after update of dollars on attempt begin
  update spent set dollars = dollars + coalesce(new.dollars, 0) - coalesce(old.dollars, 0); end;
create table batch (
  id integer primary key,
  name text not null,           -- ours, in the batch's metadata at the provider
  endpoint text not null,
  model text not null,
  created real not null,        -- Unix time
  file text,                    -- the provider's name of the uploaded requests; null: not uploaded, as far as we know
  batch text,                   -- the provider's name of the batch; null: not created, as far as we know
  state text not null           -- open, or how it ended
);
"""


def statements(script: str) -> list[str]:
    return re.split(r";\n(?=create|alter|insert)", script.strip().removesuffix(";"))


def key(endpoint: str, body: dict, replicate: int) -> str:
    """What was asked, as a hash."""
    asked = json.dumps([endpoint, body, replicate], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(asked.encode()).hexdigest()


@dataclass(frozen=True)
class Asked:
    """One request as it is sent."""

    key: str
    replicate: int
    body: dict


@dataclass(frozen=True)
class Batch:
    """A batch of the provider's Batch API that has not ended; `file` and `batch` as in the table."""

    id: int
    name: str
    created: float
    file: str | None
    batch: str | None


class Ledger:
    """Open or create the ledger at `path`.

    Args:
        budget: US dollars that all attempts in the file, other processes' too, may cost together; None for no limit.

    Raises:
        UserError: the file is damaged, is no ledger, or cannot be written.
    """

    def __init__(self, path: Path, *, budget: float | None = None):
        self.path, self.db, self.budget, self.run = path, None, budget, os.environ.get(RUN)
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
        """Create the tables in an empty file; a file that is not ours is only looked at."""
        count = "select count(*) from sqlite_master"
        tables = self.db.execute(count).fetchone()[0]  # before the mark: another process may create both just now
        mark = self.db.execute("pragma application_id").fetchone()[0]
        if mark != APPLICATION and (mark or tables):
            raise sqlite3.DatabaseError("it is a database of something else")
        if self.db.execute("pragma user_version").fetchone()[0] > VERSION:
            raise sqlite3.DatabaseError("it is of a newer version of this code")
        log = self.path.with_name(self.path.name + "-wal")  # a last page not yet whole may still stand in the log
        if self.path.stat().st_size % self.db.execute("pragma page_size").fetchone()[0] and not (log.exists() and log.stat().st_size):
            raise sqlite3.DatabaseError("its last page is torn")
        self._log_ahead()
        self.db.execute("pragma synchronous = normal")
        self.db.execute("begin immediate")
        made = [] if self.db.execute(count).fetchone()[0] else statements(SCHEMA)
        if self.db.execute("pragma user_version").fetchone()[0] < VERSION:
            made += statements(ADDED)
        for statement in made:
            self.db.execute(statement)
        self.db.execute(f"pragma application_id = {APPLICATION}")
        self.db.execute(f"pragma user_version = {VERSION}")
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

    def _read(self, query: str, values=()) -> list[tuple]:
        try:
            return self.db.execute(query, values).fetchall()
        except sqlite3.Error as e:
            raise self._unreadable(e) from None

    @contextlib.contextmanager
    def _transaction(self):
        """All or nothing; what is read inside is not changed by others before it is committed."""
        self._write("begin immediate")
        try:
            yield
            self._write("commit")
        finally:  # an interrupt, too, must not leave later rows in a transaction that nobody commits
            if self.db.in_transaction:
                self.db.execute("rollback")

    # ---- one request ----

    def begin(
        self, key: str, *, endpoint: str, model: str, stage: str, replicate: int, body: dict, dollars: float | None = None
    ) -> int | None:
        """Note that a request is about to be sent; returns the attempt's number, or None if the budget has no room for it.

        Args:
            dollars: the most that it can cost. They count as spent until it is known what it did cost.
        """
        row = (key, endpoint, model, stage, replicate, json.dumps(body, ensure_ascii=False), time.time(), self.run, dollars)
        columns = "key, endpoint, model, stage, replicate, body, started, run, dollars, state"
        insert = f"insert into attempt ({columns}) select ?, ?, ?, ?, ?, ?, ?, ?, ?, 'sent'"
        if self.budget is None:
            return self._write(insert, row).lastrowid
        # One statement: no other process can spend between the look and the row.
        done = self._write(f"{insert} where (select dollars from spent) + ? <= ?", (*row, dollars or 0, self.budget))
        return done.lastrowid if done.rowcount else None

    def replied(
        self, attempt: int, raw: bytes, *, request_id: str | None = None, usage: dict | None = None, dollars: float | None = None
    ) -> None:
        """Store a reply as it came; without `dollars` what was reserved for it stays reserved."""
        usage = usage or {}
        row = (time.time(), raw, request_id, usage.get("prompt_tokens"), usage.get("completion_tokens"), dollars, attempt)
        columns = "ended = ?, raw = ?, request_id = ?, prompt_tokens = ?, completion_tokens = ?, dollars = coalesce(?, dollars)"
        self._write(f"update attempt set state = 'replied', {columns} where id = ?", row)

    def failed(self, attempt: int, why: str, *, billed: bool = True) -> None:
        """Note why an attempt brought no reply; unless it is known to be unbilled, what was reserved for it stays reserved."""
        self._write("update attempt set state = ?, ended = ?, dollars = dollars * ? where id = ?", (why, time.time(), billed, attempt))

    def store(self, rows: list[tuple[str, dict, int, bytes]], *, endpoint: str, model: str, stage: str) -> None:
        """Store (key, body, replicate, raw reply) that were made here, at no cost, in one transaction."""
        now = time.time()
        values = [(k, endpoint, model, stage, r, json.dumps(b, ensure_ascii=False), now, now, raw, self.run) for k, b, r, raw in rows]
        columns = "key, endpoint, model, stage, replicate, body, started, ended, raw, run, dollars, state"
        with self._transaction():
            self._write(f"insert into attempt ({columns}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 'replied')", values, many=True)

    def reply(self, key: str) -> bytes | None:
        """The reply to a request that was stored first, or None."""
        rows = self._read("select raw from attempt where key = ? and state = 'replied' order by ended, id limit 1", (key,))
        return rows[0][0] if rows else None

    # ---- batches ----

    def begin_batch(self, name: str, asked: Iterable[tuple[Asked, float | None]], *, endpoint: str, model: str, stage: str) -> Batch | None:
        """Note that a batch is about to be sent: requests, each with the most dollars it can cost, as far as the budget has room.

        Left out are requests with a reply, and those that another open batch holds. None if nothing is left.
        """
        now, rows = time.time(), []
        with self._transaction():
            room = float("inf") if self.budget is None else self.budget - self.spent()
            there = self.pending(endpoint, model)
            for a, dollars in asked:
                if a.key in there or self.reply(a.key) is not None:
                    continue
                room -= dollars or 0
                if room < 0:
                    break
                rows.append((a.key, endpoint, model, stage, a.replicate, json.dumps(a.body, ensure_ascii=False), now, self.run, dollars))
            if not rows:
                return None
            values = (name, endpoint, model, now)
            batch = self._write("insert into batch (name, endpoint, model, created, state) values (?, ?, ?, ?, 'open')", values).lastrowid
            columns = "key, endpoint, model, stage, replicate, body, started, run, dollars, batch, state"
            self._write(f"insert into attempt ({columns}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, {batch}, 'sent')", rows, many=True)
        return Batch(batch, name, now, None, None)

    def open_batches(self, endpoint: str, model: str) -> list[Batch]:
        query = "select id, name, created, file, batch from batch where state = 'open' and endpoint = ? and model = ? order by id"
        return [Batch(*row) for row in self._read(query, (endpoint, model))]

    def pending(self, endpoint: str, model: str) -> dict[str, Batch]:
        """Which requests open batches hold, by key."""
        batches = {b.id: b for b in self.open_batches(endpoint, model)}
        query = f"select key, batch from attempt where batch in ({', '.join(map(str, batches))})"
        return {k: batches[i] for k, i in self._read(query)} if batches else {}

    def requests_of(self, batch: int) -> list[tuple[str, dict]]:
        """Keys and bodies of a batch's requests."""
        return [(k, json.loads(body)) for k, body in self._read("select key, body from attempt where batch = ? order by id", (batch,))]

    def sent_batch(self, batch: int, *, file: str | None = None, name: str | None = None) -> None:
        """Note what the provider calls the uploaded file, or the batch."""
        self._write("update batch set file = coalesce(?, file), batch = coalesce(?, batch) where id = ?", (file, name, batch))

    def end_batch(
        self, batch: int, state: str, replies: Iterable[tuple] = (), *, unbilled: dict[str, str] | None = None, rest: str
    ) -> None:
        """Store a batch that has ended, whole and once, whoever else of this ledger's processes does it too.

        Args:
            replies: (key, raw, request_id, usage, dollars), as `replied` takes them.
            unbilled: why a request that is known to have cost nothing brought no reply, by key.
            rest: why all others did not; what was reserved for them stays reserved.
        """
        now, by_key = time.time(), "batch = ? and key = ?"
        with self._transaction():
            if not self._write("update batch set state = ? where id = ? and state = 'open'", (state, batch)).rowcount:
                return
            for k, raw, request_id, usage, dollars in replies:
                row = (now, raw, request_id, usage.get("prompt_tokens"), usage.get("completion_tokens"), dollars, batch, k)
                columns = "ended = ?, raw = ?, request_id = ?, prompt_tokens = ?, completion_tokens = ?, dollars = coalesce(?, dollars)"
                self._write(f"update attempt set state = 'replied', {columns} where {by_key}", row)
            rows = [(why, now, batch, k) for k, why in (unbilled or {}).items()]
            self._write(f"update attempt set state = ?, ended = ?, dollars = dollars * 0 where {by_key}", rows, many=True)
            self._write("update attempt set state = ?, ended = ? where batch = ? and state = 'sent'", (rest, now, batch))

    # ---- money and what else is in it ----

    def spent(self) -> float:
        """US dollars that all attempts cost, and the most that those without a reply may have cost."""
        return round(self._read("select dollars from spent")[0][0], 9)  # sums of many small numbers

    def unpriced(self) -> list[tuple]:
        """Attempts that were made while their model's price was unknown: (id, model, state, body, prompt and completion tokens)."""
        return self._read("select id, model, state, body, prompt_tokens, completion_tokens from attempt where dollars is null")

    def price(self, dollars: Iterable[tuple[float, int]]) -> None:
        """Note what attempts cost after all: (dollars, id)."""
        with self._transaction():
            self._write("update attempt set dollars = ? where id = ?", list(dollars), many=True)

    def seconds(self, endpoint: str, model: str) -> float | None:
        """Mean seconds that the last hundred replies took, or None."""
        query = (
            "select avg(ended - started) from (select started, ended from attempt where state = 'replied' and batch is null"
            " and endpoint = ? and model = ? order by id desc limit 100)"
        )
        return self._read(query, (endpoint, model))[0][0]

    def summary(self, run: str | None = None) -> pd.DataFrame:
        """What was asked by stage, model and state; of one `helpers.stage` run only, if named.

        Columns: requests (different ones), attempts, prompt_tokens, completion_tokens, dollars (of state replied: paid; of
        others: what they may have cost; NaN where a price is unknown).
        """
        counts = "count(distinct key) requests, count(*) attempts"
        tokens = "sum(prompt_tokens) prompt_tokens, sum(completion_tokens) completion_tokens"
        money = "case when count(dollars) = count(*) then sum(dollars) end dollars"
        of = "where run = ?" if run else ""
        by = "stage, model, state"
        query = f"select {by}, {counts}, {tokens}, {money} from attempt {of} group by {by} order by {by}"
        try:
            return pd.read_sql_query(query, self.db, params=(run,) if run else None)
        except (sqlite3.Error, pd.errors.DatabaseError) as e:
            raise self._unreadable(e) from None

    def _unreadable(self, why: Exception) -> UserError:
        return UserError(f"{self.path}: cannot be read ({why}); mend it or move it away")


def main(profile: str = "") -> None:
    """Print what a profile's ledger holds."""
    path = paths.ledger(profile or "PROFILE")
    if not path.exists():
        raise UserError(f"{path}: no ledger there; nothing has been asked under PROFILE={profile}")
    ledger = Ledger(path)
    table = ledger.summary()
    if table.empty:
        print(f"{path}: nothing has been asked yet")
        return
    whole = {"prompt_tokens": "{:,.0f}".format, "completion_tokens": "{:,.0f}".format}
    print(f"{path}\n")
    print(table.to_string(index=False, na_rep="unknown", formatters=whole | {"dollars": "{:,.4f}".format}))
    paid, other = (table[(table.state == "replied") == x].dollars for x in (True, False))
    print(f"\nPaid {paid.sum():,.2f} US dollars for replies; attempts without a reply may have cost up to {other.sum():,.2f}.")
    if unknown := sorted(table[table.dollars.isna()].model.unique()):
        print(f"Without {', '.join(unknown)}: no price for it in params/prices.yaml when it was asked.")
    for name, model, state, requests in ledger._read(
        "select b.batch, b.model, b.state, count(*) from batch b join attempt a on a.batch = b.id group by b.id"
    ):
        print(f"Batch {name or '(not created yet)'}: {requests:,} requests to {model}, {state}.")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
