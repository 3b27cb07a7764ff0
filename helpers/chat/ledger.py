"""The ledger: one SQLite file a profile that holds every request and every raw reply, so that nothing is paid twice.

A row is written before its request is sent and completed, with the reply's bytes, before anyone parses them. Its key
says what was asked (endpoint, request body, replicate) and nothing about parsing: a better parser reads old replies.
Several processes may share the file. `python -m helpers.chat.ledger <profile>` prints what is in it.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from helpers import paths
from helpers.errors import UserError, command

APPLICATION = (
    0x534B4D58  # "SKMX", in the file's header: tells our ledger from any other SQLite file
)
VERSION = 2  # of the tables, in the file's header
WAIT = 60  # seconds for other processes' writes
RUN = "STAGE_RUN"  # environment variable, set by `helpers.run.stage`: whose attempts these are
SCHEMA = Path(__file__).with_suffix(".sql")
# What a reply fills in; without dollars, what was reserved for it stays reserved.
REPLY = (
    "update attempt set state = 'replied', ended = ?, raw = ?, request_id = ?, prompt_tokens = ?, completion_tokens = ?,"
    " dollars = coalesce(?, dollars) where "
)


def reply_row(
    ended: float, raw: bytes, request_id: str | None, usage: dict[str, int], dollars: float | None
) -> tuple:
    """The values of `REPLY`."""
    return (
        ended,
        raw,
        request_id,
        usage.get("prompt_tokens"),
        usage.get("completion_tokens"),
        dollars,
    )


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
            self.db = sqlite3.connect(
                path, timeout=WAIT, isolation_level=None, check_same_thread=False
            )
            self._prepare()
        except (sqlite3.Error, OSError) as e:
            if self.db:
                self.db.close()  # and with it the files that SQLite lays beside ours
            raise UserError(
                f"{path}: cannot be used as a ledger ({e}); mend it or move it away, nothing was asked"
            ) from None

    def _prepare(self) -> None:
        """Create the tables in an empty file; a file that is not ours is only looked at."""

        def value(query: str) -> int:
            return self.db.execute(query).fetchone()[0]

        tables = value(
            "select count(*) from sqlite_master"
        )  # before the marks: another process may create all of it just now
        mark = value("pragma application_id")
        if mark != APPLICATION and (mark or tables):
            raise sqlite3.DatabaseError("it is a database of something else")
        if tables and value("pragma user_version") != VERSION:
            raise sqlite3.DatabaseError("it is of another version of this code")
        log = self.path.with_name(
            self.path.name + "-wal"
        )  # a last page not yet whole may still stand in the log
        if self.path.stat().st_size % value("pragma page_size") and not (
            log.exists() and log.stat().st_size
        ):
            raise sqlite3.DatabaseError("its last page is torn")
        self._log_ahead()
        self.db.execute("pragma synchronous = normal")
        if not tables:  # another process may be doing the same: each statement does nothing where its work is done
            marks = f"pragma application_id = {APPLICATION}; pragma user_version = {VERSION};"
            self.db.executescript(f"begin immediate; {SCHEMA.read_text()} {marks} commit;")

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
            raise UserError(
                f"{self.path}: cannot be written ({e}); replies stored so far are safe, run again to go on"
            ) from None

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
        self,
        key: str,
        *,
        endpoint: str,
        model: str,
        role: str,
        replicate: int,
        body: dict,
        dollars: float | None = None,
    ) -> int | None:
        """Note that a request is about to be sent; returns the attempt's number, or None if the budget has no room for it.

        Args:
            dollars: the most that it can cost. They count as spent until it is known what it did cost.
        """
        row = (
            key,
            endpoint,
            model,
            role,
            replicate,
            json.dumps(body, ensure_ascii=False),
            time.time(),
            self.run,
            dollars,
        )
        columns = "key, endpoint, model, role, replicate, body, started, run, dollars, state"
        insert = f"insert into attempt ({columns}) select ?, ?, ?, ?, ?, ?, ?, ?, ?, 'sent'"
        if self.budget is None:
            return self._write(insert, row).lastrowid
        # One statement: no other process can spend between the look and the row.
        done = self._write(
            f"{insert} where (select dollars from spent) + ? <= ?",
            (*row, dollars or 0, self.budget),
        )
        return done.lastrowid if done.rowcount else None

    def replied(
        self,
        attempt: int,
        raw: bytes,
        *,
        request_id: str | None = None,
        usage: dict | None = None,
        dollars: float | None = None,
    ) -> None:
        """Store a reply as it came; without `dollars` what was reserved for it stays reserved."""
        self._write(
            REPLY + "id = ?",
            (*reply_row(time.time(), raw, request_id, usage or {}, dollars), attempt),
        )

    def failed(self, attempt: int, why: str, *, billed: bool = True) -> None:
        """Note why an attempt brought no reply; unless it is known to be unbilled, what was reserved for it stays reserved."""
        self._write(
            "update attempt set state = ?, ended = ?, dollars = dollars * ? where id = ?",
            (why, time.time(), billed, attempt),
        )

    def store(
        self, rows: list[tuple[str, dict, int, bytes]], *, endpoint: str, model: str, role: str
    ) -> None:
        """Store (key, body, replicate, raw reply) that were made here, at no cost, in one transaction."""
        now = time.time()
        values = [
            (
                k,
                endpoint,
                model,
                role,
                r,
                json.dumps(b, ensure_ascii=False),
                now,
                now,
                raw,
                self.run,
            )
            for k, b, r, raw in rows
        ]
        columns = (
            "key, endpoint, model, role, replicate, body, started, ended, raw, run, dollars, state"
        )
        with self._transaction():
            self._write(
                f"insert into attempt ({columns}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 'replied')",
                values,
                many=True,
            )

    def reply(self, key: str) -> bytes | None:
        """The reply to a request that was stored first, or None."""
        rows = self._read(
            "select raw from attempt where key = ? and state = 'replied' order by ended, id limit 1",
            (key,),
        )
        return rows[0][0] if rows else None

    # ---- batches ----

    def begin_batch(
        self,
        name: str,
        asked: Iterable[tuple[Asked, float | None]],
        *,
        endpoint: str,
        model: str,
        role: str,
    ) -> Batch | None:
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
                rows.append(
                    (
                        a.key,
                        endpoint,
                        model,
                        role,
                        a.replicate,
                        json.dumps(a.body, ensure_ascii=False),
                        now,
                        self.run,
                        dollars,
                    )
                )
            if not rows:
                return None
            values = (name, endpoint, model, now)
            batch = self._write(
                "insert into batch (name, endpoint, model, created, state) values (?, ?, ?, ?, 'open')",
                values,
            ).lastrowid
            columns = (
                "key, endpoint, model, role, replicate, body, started, run, dollars, batch, state"
            )
            self._write(
                f"insert into attempt ({columns}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, {batch}, 'sent')",
                rows,
                many=True,
            )
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
        return [
            (k, json.loads(body))
            for k, body in self._read(
                "select key, body from attempt where batch = ? order by id", (batch,)
            )
        ]

    def sent_batch(self, batch: int, *, file: str | None = None, name: str | None = None) -> None:
        """Note what the provider calls the uploaded file, or the batch."""
        self._write(
            "update batch set file = coalesce(?, file), batch = coalesce(?, batch) where id = ?",
            (file, name, batch),
        )

    def end_batch(
        self,
        batch: int,
        state: str,
        replies: Iterable[tuple] = (),
        *,
        unbilled: dict[str, str] | None = None,
        rest: str,
    ) -> None:
        """Store a batch that has ended, whole and once, whoever else of this ledger's processes does it too.

        Args:
            replies: (key, raw, request_id, usage, dollars), as `replied` takes them.
            unbilled: why a request that is known to have cost nothing brought no reply, by key.
            rest: why all others did not; what was reserved for them stays reserved.
        """
        now, by_key = time.time(), "batch = ? and key = ?"
        with self._transaction():
            if not self._write(
                "update batch set state = ? where id = ? and state = 'open'", (state, batch)
            ).rowcount:
                return
            for k, *reply in replies:
                self._write(REPLY + by_key, (*reply_row(now, *reply), batch, k))
            rows = [(why, now, batch, k) for k, why in (unbilled or {}).items()]
            self._write(
                f"update attempt set state = ?, ended = ?, dollars = dollars * 0 where {by_key}",
                rows,
                many=True,
            )
            self._write(
                "update attempt set state = ?, ended = ? where batch = ? and state = 'sent'",
                (rest, now, batch),
            )

    # ---- money and what else is in it ----

    def spent(self) -> float:
        """US dollars that all attempts cost, and the most that those without a reply may have cost."""
        return round(self._read("select dollars from spent")[0][0], 9)  # sums of many small numbers

    def unpriced(self) -> list[tuple]:
        """Attempts that were made while their model's price was unknown: (id, model, state, body, prompt and completion tokens)."""
        return self._read(
            "select id, model, state, body, prompt_tokens, completion_tokens from attempt where dollars is null"
        )

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
        """What was asked by role, model and state; of one `helpers.run.stage` run only, if named.

        Columns: requests (different ones), attempts, prompt_tokens, completion_tokens, dollars (of state replied: paid; of
        others: what they may have cost; NaN where a price is unknown).
        """
        counts = "count(distinct key) requests, count(*) attempts"
        tokens = "sum(prompt_tokens) prompt_tokens, sum(completion_tokens) completion_tokens"
        money = "case when count(dollars) = count(*) then sum(dollars) end dollars"
        of = "where run = ?" if run else ""
        by = "role, model, state"
        query = f"select {by}, {counts}, {tokens}, {money} from attempt {of} group by {by} order by {by}"
        try:
            return pd.read_sql_query(query, self.db, params=(run,) if run else None)
        except (sqlite3.Error, pd.errors.DatabaseError) as e:
            raise self._unreadable(e) from None

    def batches(self) -> list[tuple]:
        """All batches: (the provider's name or None, model, state, number of requests)."""
        return self._read(
            "select b.batch, b.model, b.state, count(*) from batch b join attempt a on a.batch = b.id group by b.id"
        )

    def _unreadable(self, why: Exception) -> UserError:
        return UserError(f"{self.path}: cannot be read ({why}); mend it or move it away")


def main(profile: str) -> None:
    """Print what a profile's ledger holds."""
    path = paths.ledger(profile)
    if not path.exists():
        raise UserError(f"{path}: no ledger there; nothing has been asked under PROFILE={profile}")
    ledger = Ledger(path)
    table = ledger.summary()
    if table.empty:
        print(f"{path}: nothing has been asked yet")
        return
    whole = {"prompt_tokens": "{:,.0f}".format, "completion_tokens": "{:,.0f}".format}
    print(f"{path}\n")
    print(
        table.to_string(
            index=False, na_rep="unknown", formatters=whole | {"dollars": "{:,.4f}".format}
        )
    )
    paid, other = (table[(table.state == "replied") == x].dollars for x in (True, False))
    print(
        f"\nPaid {paid.sum():,.2f} US dollars for replies; attempts without a reply may have cost up to {other.sum():,.2f}."
    )
    if unknown := sorted(table[table.dollars.isna()].model.unique()):
        print(
            f"Without {', '.join(unknown)}: no price for it in params/prices.yaml when it was asked."
        )
    for name, model, state, requests in ledger.batches():
        print(f"Batch {name or '(not created yet)'}: {requests:,} requests to {model}, {state}.")


if __name__ == "__main__":
    command(main)
