"""The ledger: one SQLite file a profile that holds every request and every raw reply.

A question whose reply is stored is not asked, and not paid, again.

A row is written before its request is sent and completed, with the reply's bytes, before anyone
parses them. Its key says what was asked (endpoint, request body, replicate) and nothing about
parsing: a better parser reads old replies.

Several processes may share the file. One of them at a time asks a given model: it holds a lock on
a file beside the ledger, and the system lets go of the lock when the process ends, however it ends.
That holds for all processes of one machine, also in containers. SQLite's write-ahead log is for one
machine, so machines use a ledger on a network disk one after the other. The lock sees to that where
the disk's locks reach other machines (NFS 4, Lustre with flock).

`python -m helpers.chat.ledger <profile>` prints what is in it.
"""

import contextlib
import hashlib
import json
import os
import re
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import paths
from helpers.errors import UserError, command

if TYPE_CHECKING:
    import pandas as pd  # else loaded only for a table: 0.2 s

FORMAT = (0x534B4D58, 3)  # what ledger.sql writes into the file's header
PAGE = 4096  # bytes, SQLite's own choice
WAIT = 3600.0  # seconds: a reply that has come is paid for, so its write waits for others'
# Environment variable, set by `helpers.run.stage`: whose attempts these are. Outside of a stage
# each ledger that is opened gives its attempts a random name.
RUN = "STAGE_RUN"
# A flipped byte in a text or a name is no text any more, for SQLite or for Python.
DAMAGED = (sqlite3.Error, UnicodeDecodeError)

TABLES, *NAMED = re.split(r"-- name: (\w+).*\n", Path(__file__).with_suffix(".sql").read_text())
QUERIES = dict(zip(NAMED[::2], NAMED[1::2], strict=True))


def key(endpoint: str, body: dict, replicate: int) -> str:
    """What is asked, as a hash."""
    question = json.dumps([endpoint, body, replicate], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(question.encode()).hexdigest()


class Busy(UserError):
    """Another process writes; the same may be tried again."""


@dataclass(frozen=True)
class Call:
    """One request as it is sent."""

    key: str
    replicate: int
    body: dict


@dataclass(frozen=True)
class Batch:
    """A batch of the provider's that has not ended; `name` and `batch` as in the table."""

    id: int
    name: str
    created: float
    batch: str | None
    attempts: dict[str, int]  # the numbers of its requests' attempts, by key


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
        self.budget = budget
        self.run = os.environ.get(RUN, uuid.uuid4().hex)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                create(path)
            log = path.with_name(f"{path.name}-wal")  # may hold what is not in the file yet
            if path.stat().st_size % PAGE and not log.exists():
                raise sqlite3.DatabaseError("its last page is torn")
            # Closed at once: beside a file that is not ours SQLite's own files must not stay.
            with contextlib.closing(sqlite3.connect(path)) as file:
                marks = file.execute("select * from pragma_application_id, pragma_user_version")
                if marks.fetchone() != FORMAT:
                    raise sqlite3.DatabaseError("it is empty, or not of this version of the code")
            # One connection serves a notebook's thread and the client's; never both at once.
            self.db = sqlite3.connect(
                path, timeout=WAIT, isolation_level=None, check_same_thread=False
            )
            self.db.execute("pragma synchronous = normal")
        except (*DAMAGED, OSError) as error:
            raise self._unusable(error) from None

    def _unusable(self, why: Exception) -> UserError:
        words = " ".join(str(why).split())  # SQLite quotes the tables' definitions
        return (Busy if words == "database is locked" else UserError)(
            f"{self.path}: cannot be used as a ledger ({words}); mend that or move the file away;"
            " what it holds is safe, run again to go on"
        )

    def _do(self, query: str, *values) -> list[tuple]:
        """The rows that one of `QUERIES` gives."""
        try:
            return self.db.execute(QUERIES[query], values).fetchall()
        except DAMAGED as error:
            raise self._unusable(error) from None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """A transaction: all of it is stored, or nothing, and others change nothing meanwhile."""
        self._do("open_transaction")
        try:
            yield
            self._do("commit")
        finally:
            # An interrupt, too, must not leave later rows in a transaction that nobody commits.
            if self.db.in_transaction:
                self.db.execute("rollback")

    def wait_at_most(self, seconds: float) -> None:
        """For other processes' writes; then a write raises `Busy`."""
        self.db.execute(f"pragma busy_timeout = {seconds * 1000:.0f}")

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
        batch: int | None = None,
        dollars: float | None = None,
    ) -> int | None:
        """Note that a request is about to be sent, by whoever has locked its model.

        Args:
            dollars: the most that it can cost. They count as spent until it is known what it cost.

        Returns:
            The attempt's number; None if the budget has no room for it, or the same was asked
            already and has a reply, or is in a batch.
        """
        question = (key, endpoint, model, role, replicate, json.dumps(body, ensure_ascii=False))
        more = (time.time(), self.run, batch, dollars, self.budget)
        rows = self._do("begin", *question, *more)
        return rows[0][0] if rows else None

    def replied(self, attempt: int, raw: bytes, *, request_id: str = "") -> None:
        """Store a reply as it came, before anybody reads it; what was reserved stays reserved."""
        self._do("replied", attempt, time.time(), raw, request_id)

    def settled(
        self,
        attempt: int,
        state: str,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        *,
        dollars: float | None = None,
    ) -> None:
        """Note what was read of a stored reply; without dollars, what was reserved stays reserved.

        Args:
            state: replied, or no answer.
        """
        self._do("settled", attempt, state, prompt_tokens, completion_tokens, dollars)

    def failed(self, attempt: int, why: str, *, is_billed: bool = True) -> None:
        """Note why an attempt brought no reply.

        Unless it is known to be unbilled, what was reserved for it stays reserved.
        """
        self._do("failed", attempt, why, time.time(), is_billed)

    def store(self, rows: Iterable[tuple[str, dict, int, bytes]], **who: str) -> None:
        """Store (key, body, replicate, raw reply) that were made here, at no cost, all or none.

        Args:
            who: endpoint, model and role, as of `begin`.
        """
        with self.transaction():
            for k, body, replicate, raw in rows:
                attempt = self.begin(k, body=body, replicate=replicate, dollars=0.0, **who)
                if attempt is not None:
                    self.replied(attempt, raw)

    def reply(self, key: str) -> bytes | None:
        """The reply to a request that was stored first, or None."""
        rows = self._do("reply", key)
        return rows[0][0] if rows else None

    # ---- batches ----

    def begin_batch(self, name: str, endpoint: str, model: str) -> int:
        """Note that a batch is about to be sent; returns its number."""
        return self._do("begin_batch", name, endpoint, model, time.time())[0][0]

    def open_batches(self, endpoint: str, model: str) -> list[Batch]:
        rows = self._do("open_batches", endpoint, model)
        return [Batch(*row, dict(self._do("attempts_of", row[0]))) for row in rows]

    def name_batch(self, batch: int, name: str) -> None:
        """Note what the provider calls a batch."""
        self._do("name_batch", batch, name)

    def end_batch(self, batch: int, state: str) -> bool:
        """Note how a batch has ended; False if another process did."""
        return bool(self._do("end_batch", batch, state))

    # ---- money and what else is in it ----

    def spent(self) -> float:
        """US dollars that all attempts cost, or may have cost where no reply says."""
        return self._do("spent")[0][0]

    def has_room(self, dollars: float | None) -> bool:
        """Does the budget allow for so much more?"""
        return self.budget is None or self.spent() + (dollars or 0) <= self.budget

    def unpriced(self) -> list[str]:
        """Models that were asked while their price was unknown."""
        return [model for (model,) in self._do("unpriced")]

    def price(self, model: str, prompt: float, completion: float, *, dearest: float) -> None:
        """Note what attempts at an unknown price cost, by dollars per million tokens.

        Args:
            dearest: the most that a token of a prompt can cost, for attempts without counts.
        """
        self._do("price", model, prompt, completion, dearest)

    def seconds(self, endpoint: str, model: str) -> float | None:
        """Mean seconds that the last hundred replies took, or None."""
        return self._do("seconds", endpoint, model)[0][0]

    def asked(self, run: str | None = None) -> list[dict]:
        """The rows of `summary`, unknown as None."""
        try:
            rows = self.db.execute(QUERIES["summary"], [run])
            names = [name for name, *_ in rows.description]
            return [dict(zip(names, row, strict=True)) for row in rows]
        except DAMAGED as error:
            raise self._unusable(error) from None

    def summary(self, run: str | None = None) -> "pd.DataFrame":
        """What was asked by role, model and state; of one `helpers.run.stage` run only, if named.

        Columns: requests (different ones), attempts, prompt_tokens, completion_tokens, dollars (of
        replies: paid; of others: what they may have cost; NaN where a price is unknown).
        """
        return self._table("summary", run)

    def replies(self) -> "pd.DataFrame":
        """The stored replies as they came, oldest first; `chat.replies.table` reads them."""
        return self._table("replies")

    def _table(self, query: str, *values) -> "pd.DataFrame":
        import pandas as pd

        try:
            return pd.read_sql_query(QUERIES[query], self.db, params=values)
        except (*DAMAGED, pd.errors.DatabaseError) as error:
            raise self._unusable(error) from None


def create(path: Path) -> None:
    """An empty ledger, whole or not at all; another process may create the same one."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        new = Path(folder) / path.name
        with contextlib.closing(sqlite3.connect(new)) as db:
            db.executescript(TABLES)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(new)


def main(profile: str) -> None:
    """Print what a profile's ledger holds."""
    path = paths.ledger(profile)
    if not path.exists():
        raise UserError(f"{path}: no ledger there; nothing has been asked under PROFILE={profile}")
    ledger = Ledger(path)
    number = "{:,.10g}".format
    print(ledger.summary().to_string(index=False, na_rep="unknown", float_format=number))
    print(f"\n{path}: {ledger.spent():,.2f} US dollars, with what attempts may cost or have cost.")


if __name__ == "__main__":
    command(main)
