"""The ledger: one SQLite file a profile that holds every request and every raw reply.

Nothing is paid twice.

A row is written before its request is sent and completed, with the reply's bytes, before anyone
parses them. Its key says what was asked (endpoint, request body, replicate) and nothing about
parsing: a better parser reads old replies.

Several processes may share the file. What one of them asks the others wait for: an attempt names a
lock file beside the ledger that its process holds, and the system lets go of the lock when the
process ends, however it ends. That holds for all processes of one machine, also in containers.
SQLite's write-ahead log is for one machine; a ledger on a network disk is used by one machine after
the other, and a disk whose locks reach other machines (NFS 4, Lustre with flock) tells them, too.

`python -m helpers.chat.ledger <profile>` prints what is in it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from helpers import paths
from helpers.errors import UserError, command

# "SKMX", in the file's header: tells our ledger from any other SQLite file.
APPLICATION = 0x534B4D58
VERSION = 3  # of the tables, in the file's header
WAIT = 60.0  # seconds for other processes' writes
RUN = "STAGE_RUN"  # environment variable, set by `helpers.run.stage`: whose attempts these are
SCHEMA = Path(__file__).with_suffix(".sql")
# A flipped byte in a text or a name is no text any more, for SQLite or for Python.
DAMAGED = (sqlite3.Error, UnicodeDecodeError)

REPLIED = "update attempt set state = 'replied', ended = ?, raw = ?, request_id = ? where "
# Without dollars, what was reserved stays reserved.
SETTLED = (
    "update attempt set state = ?, prompt_tokens = ?, completion_tokens = ?,"
    " dollars = coalesce(?, dollars) where "
)


def key(endpoint: str, body: dict, replicate: int) -> str:
    """What is asked, as a hash."""
    question = json.dumps([endpoint, body, replicate], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(question.encode()).hexdigest()


class Held(UserError):
    """Another process holds the ledger's write lock; the same write may be tried again."""


@dataclass(frozen=True)
class Call:
    """One request as it is sent."""

    key: str
    replicate: int
    body: dict


@dataclass(frozen=True)
class Claim:
    """An attempt under way: by a process (`is_live`: it still runs) or in a batch, by our name."""

    attempt: int
    is_live: bool
    batch: str | None


@dataclass(frozen=True)
class Reading:
    """What was read of a stored reply: is it an answer, its tokens, and what it cost.

    Tokens are None where the reply does not say, dollars where they cannot be known.
    """

    is_answer: bool
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    dollars: float | None = None

    def values(self) -> tuple:
        """Of `SETTLED`."""
        state = "replied" if self.is_answer else "no answer"
        return (state, self.prompt_tokens, self.completion_tokens, self.dollars)


@dataclass(frozen=True)
class Batch:
    """A batch of the provider's that has not ended; `file` and `batch` as in the table."""

    id: int
    name: str
    created: float
    file: str | None
    batch: str | None


class Ledger:
    """Open or create the ledger at `path`.

    Args:
        budget: US dollars that all attempts in the file, other processes' too, may cost together;
            None for no limit.

    Raises:
        UserError: the file is damaged, is no ledger, or cannot be written.
    """

    def __init__(self, path: Path, *, budget: float | None = None):
        self.path = path
        self.clients = path.with_name(f"{path.name}-clients")  # a folder; says that it was used
        self.budget = budget
        self.run = os.environ.get(RUN)
        self.client: str | None = None
        self.db = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            was_used = path.exists() and self.clients.exists()
            # One connection serves a notebook's thread and the client's; never both at once.
            self.db = sqlite3.connect(
                path, timeout=WAIT, isolation_level=None, check_same_thread=False
            )
            self._prepare(was_used)
        except (*DAMAGED, OSError) as e:
            if self.db:
                self.db.close()  # and with it the files that SQLite lays beside ours
            raise UserError(
                f"{path}: cannot be used as a ledger ({words(e)}); mend it or move it away,"
                " nothing was asked"
            ) from None

    def _prepare(self, was_used: bool) -> None:
        """Create the tables in an empty file; a file that is not ours is only looked at."""

        def value(query: str) -> int:
            return self.db.execute(query).fetchone()[0]

        # Before the marks: another process may create all of it just now.
        tables = value("select count(*) from sqlite_master")
        mark = value("pragma application_id")
        if mark != APPLICATION and (mark or tables):
            raise sqlite3.DatabaseError("it is a database of something else")
        if tables and value("pragma user_version") != VERSION:
            raise sqlite3.DatabaseError("it is of another version of this code")
        # What is not in the file yet, all of it or a last page, may still stand in the log.
        log = self.path.with_name(f"{self.path.name}-wal")
        in_log = log.exists() and log.stat().st_size
        size = self.path.stat().st_size
        if size % value("pragma page_size") and not in_log:
            raise sqlite3.DatabaseError("its last page is torn")
        if not tables and was_used:
            raise sqlite3.DatabaseError(
                f"it is empty, and {self.clients.name} beside it says that it was used;"
                " without that folder it would begin anew"
            )
        self._log_ahead()
        self.db.execute("pragma synchronous = normal")
        if not tables:
            # Another process may do the same: each statement does nothing where its work is done.
            marks = f"pragma application_id = {APPLICATION}; pragma user_version = {VERSION};"
            self.db.executescript(f"begin immediate; {SCHEMA.read_text()} {marks} commit;")
        self.clients.mkdir(exist_ok=True)

    def _log_ahead(self) -> None:
        """Switch to write-ahead logging; SQLite does not wait here for others that do."""
        deadline = time.monotonic() + WAIT
        while True:
            try:
                self.db.execute("pragma journal_mode = wal")
                return
            except sqlite3.OperationalError as e:
                if not is_busy(e) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _write(self, statement: str, values=(), many: bool = False):
        try:
            execute = self.db.executemany if many else self.db.execute
            return execute(statement, values)
        except DAMAGED as e:
            kind = Held if is_busy(e) else UserError
            raise kind(
                f"{self.path}: cannot be written ({words(e)}); replies stored so far are safe,"
                " run again to go on"
            ) from None

    def _read(self, query: str, values=()) -> list[tuple]:
        try:
            return self.db.execute(query, values).fetchall()
        except DAMAGED as e:
            raise self._unreadable(e) from None

    def _unreadable(self, why: Exception) -> UserError:
        return UserError(f"{self.path}: cannot be read ({words(why)}); mend it or move it away")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; what is read inside is not changed by others before it is committed."""
        self._write("begin immediate")
        try:
            yield
            self._write("commit")
        finally:
            # An interrupt, too, must not leave later rows in a transaction that nobody commits.
            if self.db.in_transaction:
                self.db.execute("rollback")

    # ---- who asks ----

    @contextlib.contextmanager
    def claiming(self, patience: float = WAIT) -> Iterator[None]:
        """While this is open, other processes wait for what is begun here.

        Args:
            patience: seconds that a write waits, without a word, for other processes' writes.
        """
        path = self.clients / uuid.uuid4().hex
        try:
            file = open(path, "w")  # noqa: SIM115
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as e:
            raise UserError(f"{path}: cannot be locked ({e.strerror}); nothing was asked") from None
        with file:
            self.client = path.name
            self.db.execute(f"pragma busy_timeout = {patience * 1000:.0f}")
            try:
                yield
            finally:
                self.client = None
                self.db.execute(f"pragma busy_timeout = {WAIT * 1000:.0f}")
                path.unlink(missing_ok=True)

    def _is_live(self, client: str | None) -> bool:
        """Does a client's process still run? The file of one that is gone is removed."""
        if client is None:
            return False
        path = self.clients / client
        try:
            with open(path) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        path.unlink(missing_ok=True)
        return False

    def claim(self, key: str) -> Claim | None:
        """Who has asked this and has no reply yet, if anyone has."""
        query = (
            "select a.id, a.client, b.name from attempt a left join batch b on b.id = a.batch"
            " where a.key = ? and a.state = 'sent'"
        )
        for attempt, client, batch in self._read(query, (key,)):
            return Claim(attempt, self._is_live(client), batch)
        return None

    def turn(
        self, place: tuple[str, str, str], amount: float, *, rate: float, at_once: float
    ) -> float:
        """Seconds until a request may go out, at `rate` a second of all processes; 0: it goes now.

        Args:
            place: endpoint, model, and what is counted: requests or tokens.
            at_once: seconds' worth of requests that may go out together: late wake-ups are made up
                for, bursts are not made.
        """
        look = "select due, amount from pace where endpoint = ? and model = ? and unit = ?"
        note = "insert or replace into pace values (?, ?, ?, ?, ?)"
        now = time.time()
        with self._transaction():
            due = now - at_once
            for last, size in self._read(look, place):
                due = max(due, min(last, now) + size / rate)  # a clock may have been set back
            if due <= now:
                self._write(note, (*place, due, amount))
        return max(0.0, due - now)

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
        """Note that a request is about to be sent.

        Args:
            dollars: the most that it can cost. They count as spent until it is known what it cost.

        Returns:
            The attempt's number; None if the budget has no room for it, or the same was asked
            already and has a reply, or is under way.
        """
        text = json.dumps(body, ensure_ascii=False)
        now = time.time()
        row = (key, endpoint, model, role, replicate, text, now, self.run, self.client, dollars)
        # One statement: no other process can ask or spend between the look and the row.
        done = self._write(
            "insert into attempt (key, endpoint, model, role, replicate, body, started, run,"
            " client, dollars, state) select ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'sent' where not exists"
            " (select 1 from attempt where key = ? and state in ('sent', 'replied'))"
            " and (? is null or (select round(dollars, 9) from spent) + ? <= ?)",
            (*row, key, self.budget, dollars or 0, self.budget),
        )
        return done.lastrowid if done.rowcount else None

    def replied(self, attempt: int, raw: bytes, *, request_id: str | None = None) -> None:
        """Store a reply as it came, before anybody reads it; what was reserved stays reserved."""
        self._write(REPLIED + "id = ?", (time.time(), raw, request_id, attempt))

    def settled(self, attempt: int, reading: Reading) -> None:
        """Note what was read of a stored reply."""
        self._write(SETTLED + "id = ?", (*reading.values(), attempt))

    def failed(self, attempt: int, why: str, *, is_billed: bool = True) -> None:
        """Note why an attempt brought no reply.

        Unless it is known to be unbilled, what was reserved for it stays reserved.
        """
        self._write(
            "update attempt set state = ?, ended = ?, dollars = dollars * ?"
            " where id = ? and state = 'sent'",
            (why, time.time(), is_billed, attempt),
        )

    def store(
        self, rows: list[tuple[str, dict, int, bytes]], *, endpoint: str, model: str, role: str
    ) -> None:
        """Store (key, body, replicate, raw reply) that were made here, at no cost, all or none."""
        now = time.time()
        values = []
        for k, body, replicate, raw in rows:
            text = json.dumps(body, ensure_ascii=False)
            values.append((k, endpoint, model, role, replicate, text, now, now, raw, self.run))
        with self._transaction():
            self._write(
                "insert into attempt (key, endpoint, model, role, replicate, body, started, ended,"
                " raw, run, dollars, state) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 'replied')",
                values,
                many=True,
            )

    def reply(self, key: str) -> bytes | None:
        """The reply to a request that was stored first, or None."""
        query = (
            "select raw from attempt where key = ? and state = 'replied' order by ended, id limit 1"
        )
        rows = self._read(query, (key,))
        return rows[0][0] if rows else None

    # ---- batches ----

    def begin_batch(
        self,
        name: str,
        calls: Iterable[tuple[Call, float | None]],
        *,
        endpoint: str,
        model: str,
        role: str,
    ) -> Batch | None:
        """Note that a batch is about to be sent.

        Args:
            calls: each with the most dollars it can cost; taken as far as the budget has room.
                Left out are those with a reply, and those that are under way elsewhere.

        Returns:
            The batch; None if nothing is left for it.
        """
        now = time.time()
        rows = []
        with self._transaction():
            room = float("inf") if self.budget is None else self.budget - self.spent()
            for call, dollars in calls:
                claim = self.claim(call.key)
                is_under_way = claim and (claim.is_live or claim.batch)
                if is_under_way or self.reply(call.key) is not None:
                    continue
                room -= dollars or 0
                if room < 0:
                    break
                text = json.dumps(call.body, ensure_ascii=False)
                rows.append((call.key, call.replicate, text, dollars))
            if not rows:
                return None
            batch = self._write(
                "insert into batch (name, endpoint, model, created, state)"
                " values (?, ?, ?, ?, 'open')",
                (name, endpoint, model, now),
            ).lastrowid
            self._write(
                "insert into attempt (key, replicate, body, dollars, endpoint, model, role,"
                " started, run, batch, state) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'sent')",
                [(*row, endpoint, model, role, now, self.run, batch) for row in rows],
                many=True,
            )
        return Batch(batch, name, now, None, None)

    def open_batches(self, endpoint: str, model: str) -> list[Batch]:
        query = (
            "select id, name, created, file, batch from batch"
            " where state = 'open' and endpoint = ? and model = ? order by id"
        )
        return [Batch(*row) for row in self._read(query, (endpoint, model))]

    def pending(self, endpoint: str, model: str) -> dict[str, int]:
        """Which requests open batches hold: their keys, each with its batch."""
        query = (
            "select a.key, b.id from attempt a join batch b on a.batch = b.id"
            " where b.state = 'open' and b.endpoint = ? and b.model = ?"
        )
        return dict(self._read(query, (endpoint, model)))

    def requests_of(self, batch: int) -> dict[str, dict]:
        """Bodies of a batch's requests, by key."""
        query = "select key, body from attempt where batch = ? order by id"
        try:
            return {k: json.loads(body) for k, body in self._read(query, (batch,))}
        except ValueError as e:
            raise self._unreadable(e) from None

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
        replies: Iterable[tuple[str, bytes, str | None, Reading]] = (),
        *,
        unbilled: dict[str, str] | None = None,
        rest: str,
    ) -> None:
        """Store a batch that has ended, whole and once, whichever of the processes do it.

        Args:
            replies: key, raw, request_id and what was read of each.
            unbilled: why a request that is known to have cost nothing brought no reply, by key.
            rest: why all others did not; what was reserved for them stays reserved.
        """
        now = time.time()
        with self._transaction():
            ended = self._write(
                "update batch set state = ? where id = ? and state = 'open'", (state, batch)
            )
            if not ended.rowcount:
                return
            for k, raw, request_id, reading in replies:
                of_request = (batch, k)
                self._write(REPLIED + "batch = ? and key = ?", (now, raw, request_id, *of_request))
                self._write(SETTLED + "batch = ? and key = ?", (*reading.values(), *of_request))
            self._write(
                "update attempt set state = ?, ended = ?, dollars = dollars * 0"
                " where batch = ? and key = ?",
                [(why, now, batch, k) for k, why in (unbilled or {}).items()],
                many=True,
            )
            self._write(
                "update attempt set state = ?, ended = ? where batch = ? and state = 'sent'",
                (rest, now, batch),
            )

    # ---- money and what else is in it ----

    def spent(self) -> float:
        """US dollars that all attempts cost, or may have cost where no reply says."""
        # A sum of many small numbers.
        return self._read("select round(dollars, 9) from spent")[0][0]

    def has_room(self, dollars: float | None) -> bool:
        """Does the budget allow for so much more?"""
        return self.budget is None or self.spent() + (dollars or 0) <= self.budget

    def unpriced(self) -> list[tuple]:
        """Attempts that were made while their model's price was unknown.

        Returns:
            For each (id, model, state, body, prompt tokens, completion tokens).
        """
        return self._read(
            "select id, model, state, body, prompt_tokens, completion_tokens from attempt"
            " where dollars is null"
        )

    def price(self, dollars: list[tuple[float, int]]) -> None:
        """Note what attempts cost after all: (dollars, id)."""
        with self._transaction():
            self._write("update attempt set dollars = ? where id = ?", dollars, many=True)

    def seconds(self, endpoint: str, model: str) -> float | None:
        """Mean seconds that the last hundred replies took, or None."""
        query = (
            "select avg(ended - started) from (select started, ended from attempt where"
            " state = 'replied' and batch is null and endpoint = ? and model = ?"
            " order by id desc limit 100)"
        )
        return self._read(query, (endpoint, model))[0][0]

    def summary(self, run: str | None = None) -> pd.DataFrame:
        """What was asked by role, model and state; of one `helpers.run.stage` run only, if named.

        Columns: requests (different ones), attempts, prompt_tokens, completion_tokens, dollars (of
        replies: paid; of others: what they may have cost; NaN where a price is unknown).
        """
        query = (
            "select role, model, state, count(distinct key) requests, count(*) attempts,"
            " sum(prompt_tokens) prompt_tokens, sum(completion_tokens) completion_tokens,"
            " case when count(dollars) = count(*) then sum(dollars) end dollars"
            " from attempt where ?1 is null or run = ?1"
            " group by role, model, state order by role, model, state"
        )
        try:
            return pd.read_sql_query(query, self.db, params=(run,))
        except (*DAMAGED, pd.errors.DatabaseError) as e:
            raise self._unreadable(e) from None

    def batches(self) -> list[tuple]:
        """All batches: (the provider's name or None, model, state, number of requests)."""
        return self._read(
            "select b.batch, b.model, b.state, count(*) from batch b join attempt a"
            " on a.batch = b.id group by b.id"
        )


def words(error: Exception) -> str:
    """In one line: SQLite quotes the tables' definitions."""
    return " ".join(str(error).split())


def is_busy(error: Exception) -> bool:
    """Does another process hold the lock?"""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


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
    count = "{:,.0f}".format
    shapes = {"prompt_tokens": count, "completion_tokens": count, "dollars": "{:,.4f}".format}
    print(f"{path}\n\n{table.to_string(index=False, na_rep='unknown', formatters=shapes)}")
    has_reply = table.state.isin(["replied", "no answer"])
    paid, other = table.dollars[has_reply].sum(), table.dollars[~has_reply].sum()
    print(
        f"\nPaid {paid:,.2f} US dollars for replies;"
        f" attempts without a reply may have cost up to {other:,.2f}."
    )
    if unknown := sorted(table[table.dollars.isna()].model.unique()):
        names = ", ".join(unknown)
        print(f"Without {names}: no price for it in params/prices.yaml when it was asked.")
    for name, model, state, requests in ledger.batches():
        print(f"Batch {name or '(not created yet)'}: {requests:,} requests to {model}, {state}.")


if __name__ == "__main__":
    command(main)
