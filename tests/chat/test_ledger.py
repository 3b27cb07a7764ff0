"""The ledger: what it tells apart, what it never loses, and files it will not touch."""

import contextlib
import json
import os
import random
import resource
import sqlite3
import tempfile
from pathlib import Path

import pytest

from helpers import paths
from helpers.chat import ledger as module
from helpers.chat.ledger import Ledger, key
from helpers.errors import UserError
from tests.faults.asking import run_together, states

WHO = {"endpoint": "http://a", "model": "m", "role": "judge", "replicate": 0}
RAW = b'{"choices": [], "odd": "\\u00e9\\ud83d"}\n \xff\x00'


def filled(path, n, size=500):
    ledger = Ledger(path)
    for i in range(n):
        ledger.replied(ledger.begin(f"k{i}", body={"i": i}, **WHO), b"x" * size)
    return ledger


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def refused(path):
    """The sentence with which a file is refused; it is left as it was, and nothing beside it."""
    before = contents(path.parent)
    with pytest.raises(UserError, match="ledger") as refusal:
        Ledger(path)
    assert contents(path.parent) == before
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_key_says_what_was_asked():
    body = {"model": "m", "messages": [{"role": "user", "content": "é"}], "n": 3}
    other_model, other_text = (
        {**body, "model": "l"},
        {**body, "messages": [{"role": "user", "content": "e"}]},
    )
    asked = [
        ("http://a", body, 0),
        ("http://b", body, 0),
        ("http://a", body, 1),
        ("http://a", other_model, 0),
        ("http://a", other_text, 0),
    ]
    assert len({key(*a) for a in asked}) == len(asked)
    assert key("http://a", dict(reversed(body.items())), 0) == key("http://a", body, 0)


def test_key_stays_the_same_for_ever():
    """A change would ask and pay everything anew."""
    assert (
        key("http://a", {"model": "m", "n": 3}, 0)
        == "dfadc92051d4006254de9185efd992c1e2c797b77c032116607095072f9efa37"
    )


def test_reply_comes_back_as_it_was_stored(tmp_path):
    ledger = Ledger(tmp_path / "new" / "ledger.sqlite")
    assert ledger.reply("k") is None
    attempt = ledger.begin("k", body={"messages": ["é"]}, **WHO)
    assert ledger.reply("k") is None
    ledger.replied(attempt, RAW, request_id="r1")
    assert ledger.reply("k") == RAW, "before anybody has read it"
    ledger.settled(attempt, "replied", 3, 5)
    ledger.replied(ledger.begin("empty", body={}, **WHO), b"")
    again = Ledger(ledger.path)
    assert (again.reply("k"), again.reply("empty"), again.reply("l")) == (RAW, b"", None)
    assert json.loads(again.db.execute("select body from attempt").fetchone()[0]) == {
        "messages": ["é"]
    }
    rows = again.summary().set_index("state").loc["replied"]
    assert (rows.attempts, rows.prompt_tokens, rows.completion_tokens) == (2, 3, 5)


def test_the_reply_that_was_stored_first_counts(tmp_path):
    """A request that was taken over may be answered twice; what was read first is read for ever."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    slow = ledger.begin("k", body={}, **WHO)
    ledger.failed(slow, "lost")
    ledger.replied(ledger.begin("k", body={}, **WHO), b"quick")
    assert ledger.reply("k") == b"quick"
    ledger.replied(slow, b"slow")
    assert ledger.reply("k") == b"quick"


def test_a_reply_without_an_answer_is_kept_and_not_given(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    attempt = ledger.begin("k", body={}, **WHO, dollars=1.0)
    ledger.replied(attempt, b"oh")
    ledger.settled(attempt, "no answer", dollars=0.25)
    assert (ledger.reply("k"), ledger.spent()) == (None, 0.25)
    assert ledger.db.execute("select raw from attempt").fetchone() == (b"oh",)
    assert ledger.begin("k", body={}, **WHO) is not None, "it may be asked again"


def test_what_nobody_asks_any_more_may_be_asked_again(tmp_path):
    """One process at a time asks a model: whoever asked before it has gone."""
    mine, other = Ledger(tmp_path / "ledger.sqlite"), Ledger(tmp_path / "ledger.sqlite")
    attempt = mine.begin("k", body={}, **WHO)
    again = other.begin("k", body={}, **WHO)
    assert states(other) == {"lost": 1, "sent": 1}
    other.replied(again, b"")
    mine.failed(attempt, "HTTP 500")
    assert states(other) == {"lost": 1, "replied": 1}
    assert mine.begin("k", body={}, **WHO) is None, "it has a reply"
    other.failed(again, "lost")
    assert other.reply("k") == b"", "a reply is never lost again"


def test_attempts_are_there_before_their_replies(tmp_path):
    ledger, other = Ledger(tmp_path / "ledger.sqlite"), Ledger(tmp_path / "ledger.sqlite")
    attempt = ledger.begin("k", body={}, **WHO)
    states = "select state, ended is null, raw is null from attempt"
    assert other.db.execute(states).fetchall() == [("sent", 1, 1)]
    ledger.failed(attempt, "HTTP 500")
    assert other.db.execute(states).fetchall() == [("HTTP 500", 0, 1)]
    assert other.reply("k") is None


def test_a_batch_is_stored_whole(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.store(
        [(f"k{i}", {"i": i}, 0, b"%d" % i) for i in range(5)],
        endpoint="local:1",
        model="m",
        role="student",
    )
    assert [Ledger(ledger.path).reply(f"k{i}") for i in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


def test_what_costs_nothing_is_stored_whatever_was_spent(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    reserved(ledger, dollars=2.0)
    ledger.budget = 1.0
    ledger.store([("made", {}, 0, b"here")], endpoint="local:1", model="m", role="student")
    assert ledger.reply("made") == b"here"


WRITER = """
import sys
from pathlib import Path
from helpers.chat.ledger import Ledger
folder, name = Path(sys.argv[1]), sys.argv[2]
who = {"endpoint": "e", "model": "m", "role": "judge", "replicate": 0}
print("ready", flush=True)
sys.stdin.readline()
for i in range(30):  # both create the same files at once
    ledger = Ledger(folder / f"{i}.sqlite")
    for j in range(10):
        k = f"{name}{j}"
        ledger.replied(ledger.begin(k, body={"j": j}, **who), k.encode())
    rows = [(f"{name}{j}", {}, 0, f"{name}{j}".encode()) for j in range(10, 20)]
    ledger.store(rows, endpoint="e", model="m", role="student")
"""


def test_two_processes_write_one_ledger(tmp_path):
    run_together(WRITER, str(tmp_path))
    for i in range(30):
        ledger = Ledger(tmp_path / f"{i}.sqlite")
        assert all(
            ledger.reply(f"{name}{j}") == f"{name}{j}".encode() for name in "ab" for j in range(20)
        )
        assert ledger.summary().attempts.sum() == 40


def test_foreign_files_are_refused_untouched(tmp_path):
    for name, content in {"short.txt": b"notes", "long.txt": b"our notes\n" * 500}.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    for name, journal in {"a.db": "delete", "b.db": "wal"}.items():
        with sqlite3.connect(tmp_path / name) as db:
            db.execute(f"pragma journal_mode = {journal}")
            db.execute("create table attempt (id integer primary key, key text)")
        db.close()
        assert "not of this version" in refused(tmp_path / name)
    with sqlite3.connect(tmp_path / "empty.db") as db:
        db.execute("pragma application_id = 7")
    db.close()
    assert "not of this version" in refused(tmp_path / "empty.db")


def test_an_empty_file_is_no_ledger(tmp_path):
    """It may have been one; a ledger is there as a whole or not at all."""
    ledger = filled(tmp_path / "ledger.sqlite", 1)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    ledger.db.close()
    ledger.path.write_bytes(b"")
    assert "it is empty" in refused(ledger.path)
    ledger.path.unlink()
    assert Ledger(ledger.path).reply("k0") is None, "removed on purpose"


def test_a_flipped_byte_is_a_sentence_or_does_no_harm(tmp_path):
    ledger = filled(tmp_path / "ledger.sqlite", 5, size=100)
    ledger.begin("b", body={"é": 1}, **WHO, batch=ledger.begin_batch("a", "e", "m"), dollars=0.5)
    ledger.db.close()
    whole = ledger.path.read_bytes()
    rng = random.Random(0)
    sentences = []
    for _ in range(150):
        damaged = bytearray(whole)
        place = rng.choice([i for i in (rng.randrange(len(whole)) for _ in range(500)) if whole[i]])
        damaged[place] ^= 1 << rng.randrange(8)
        ledger.path.write_bytes(damaged)
        try:
            ledger = Ledger(ledger.path)
            [ledger.reply(f"k{i}") for i in range(5)]
            ledger.open_batches("e", "m")
            ledger.summary()
            ledger.begin("new", body={}, **WHO)
        except UserError as error:
            sentences.append(str(error))
        finally:
            ledger.db.close()
            for beside in tmp_path.glob("*-wal"):
                beside.unlink()
    assert len(sentences) > 5
    assert not [sentence for sentence in sentences if "\n" in sentence]


def test_a_torn_file_is_refused_untouched(tmp_path):
    filled(tmp_path / "whole.sqlite", 100).db.close()
    whole = (tmp_path / "whole.sqlite").read_bytes()
    assert len(whole) > 50_000
    (tmp_path / "whole.sqlite").unlink()
    torn = {
        "half": whole[: len(whole) // 2],
        "tail": whole[:-1000],
        "head": whole[:50],
        "start": b"\0" * 4096 + whole[4096:],
    }
    for name, content in torn.items():
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)


def test_a_damaged_page_is_named_when_it_is_read(tmp_path):
    filled(tmp_path / "ledger.sqlite", 100).db.close()
    whole = (tmp_path / "ledger.sqlite").read_bytes()
    (tmp_path / "ledger.sqlite").write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with pytest.raises(UserError, match="cannot be used"):
        [ledger.reply(f"k{i}") for i in range(100)]
    with pytest.raises(UserError, match="cannot be used"):
        ledger.summary()


def test_places_that_cannot_hold_a_ledger(tmp_path):
    (tmp_path / "folder.sqlite").mkdir()
    refused(tmp_path / "folder.sqlite")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="ledger"):
        Ledger(tmp_path / "file" / "ledger.sqlite")
    with pytest.raises(UserError, match="ledger"):
        Ledger(tmp_path / "file" / "deeper" / "ledger.sqlite")


@contextlib.contextmanager
def as_nobody():
    """Root may write everywhere; for a while we are not root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_without_write_permission():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "closed"
        stored = filled(folder / "there.sqlite", 3)
        stored.db.close()
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        with as_nobody():
            refused(folder / "new.sqlite")
            refused(folder / "there.sqlite")
        folder.chmod(0o755)
        assert Ledger(folder / "there.sqlite").reply("k2") == b"x" * 500


def full(ledger):
    pages = ledger.db.execute("pragma page_count").fetchone()[0]
    ledger.db.execute(f"pragma max_page_count = {pages + 5}")


def fill_up(ledger, start):
    """Write until it no longer goes; returns how many replies were stored."""
    stored = start

    def fill():
        nonlocal stored
        for stored in range(start, 10_000):
            ledger.replied(ledger.begin(f"k{stored}", body={}, **WHO), b"x" * 500)

    with pytest.raises(UserError, match=r"^.* cannot be used .* run again to go on$"):
        fill()
    return stored


def test_a_full_disk_keeps_what_was_stored(tmp_path):
    ledger = filled(tmp_path / "ledger.sqlite", 20)
    full(ledger)
    stored = fill_up(ledger, 20)
    assert 20 < stored < 100
    for again in (ledger, Ledger(ledger.path)):
        assert all(again.reply(f"k{i}") == b"x" * 500 for i in range(stored))
        assert again.reply(f"k{stored}") is None


def test_a_full_file_system_keeps_what_was_stored(tmp_path):
    """No file may grow over 200 kB, the log neither: the system refuses the write itself."""
    ledger = filled(tmp_path / "ledger.sqlite", 20)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        stored = fill_up(ledger, 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for again in (ledger, Ledger(ledger.path)):
        assert all(again.reply(f"k{i}") == b"x" * 500 for i in range(stored))
        again.replied(again.begin("after", body={}, **WHO), b"room again")
    assert Ledger(ledger.path).reply("after") == b"room again"


def test_a_batch_that_does_not_fit_leaves_nothing_half_done(tmp_path):
    ledger = filled(tmp_path / "ledger.sqlite", 5)
    full(ledger)
    batch = [(f"b{i}", {}, 0, b"y" * 2000) for i in range(100)]
    with pytest.raises(UserError, match="cannot be used"):
        ledger.store(batch, endpoint="local:1", model="m", role="student")
    ledger.db.execute("pragma max_page_count = 1000000")
    assert all(ledger.reply(k) is None for k, *_ in batch)
    ledger.replied(ledger.begin("after", body={}, **WHO), b"room again")
    assert Ledger(ledger.path).reply("after") == b"room again", (
        "written outside the failed batch's transaction"
    )
    ledger.store(batch, endpoint="local:1", model="m", role="student")
    assert Ledger(ledger.path).reply("b99") == b"y" * 2000


# ---- money ----


def reserved(ledger, key="k", dollars=1.0):
    return ledger.begin(key, body={}, **WHO, dollars=dollars)


def test_spent_is_the_sum_of_what_is_paid_and_reserved(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    paid, unknown, refused_, lost = (reserved(ledger, f"k{i}") for i in range(4))
    free = ledger.begin("k4", body={}, **WHO)
    assert ledger.spent() == 4
    ledger.replied(paid, b"")
    ledger.settled(paid, "replied", dollars=0.25)
    ledger.replied(unknown, b"")  # no usage in it
    ledger.failed(refused_, "HTTP 429", is_billed=False)
    ledger.failed(lost, "APIConnectionError")
    ledger.replied(free, b"")
    ledger.settled(free, "replied", 1, 1)
    assert Ledger(ledger.path).spent() == 0.25 + 1 + 0 + 1
    assert ledger.db.execute("select sum(dollars) from attempt").fetchone()[0] == 2.25
    assert ledger.unpriced() == ["m"]
    ledger.price("m", 3e5, 2e5, dearest=4e5)
    assert (ledger.spent(), ledger.unpriced()) == (2.75, [])
    table = ledger.summary().set_index("state")
    assert table.dollars.to_dict() == {"replied": 1.75, "HTTP 429": 0, "APIConnectionError": 1}


def test_a_budget_has_room_or_not(tmp_path):
    path = tmp_path / "ledger.sqlite"
    ledger, other = Ledger(path, budget=2.5), Ledger(path, budget=2.5)
    first = reserved(ledger, "k0")
    assert reserved(other, "k1") is not None
    assert reserved(ledger, "k2") is None
    assert not ledger.has_room(1.0)
    assert ledger.has_room(0.5)
    assert reserved(ledger, "k3", dollars=0.5) is not None, "up to the last cent"
    other.replied(first, b"")
    other.settled(first, "replied", dollars=0.0)
    assert reserved(ledger, "k4") is not None
    assert ledger.db.execute("select count(*) from attempt").fetchone() == (4,)
    assert reserved(Ledger(path), "k5", dollars=100.0) is not None, "no budget, no limit"


def test_a_budget_costs_the_same_however_much_is_stored(tmp_path):
    """No look at other rows: beginning an attempt is the same work on empty and full ledgers."""
    ledger = filled(tmp_path / "ledger.sqlite", 3000, size=10)
    ledger.budget, steps = 1e9, []

    def work(key):
        steps.append(0)
        ledger.db.set_progress_handler(lambda: steps.append(steps.pop() + 1), 1)
        reserved(ledger, key)
        ledger.db.set_progress_handler(None, 1)
        return steps[-1]

    full = work("a")
    ledger.db.execute("delete from attempt")
    empty = work("b")
    assert full <= empty + 50


def test_a_batch_takes_what_the_budget_has_room_for(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite", budget=3.0)
    paid = reserved(ledger, "k0")
    ledger.replied(paid, b"")
    ledger.settled(paid, "replied", dollars=0.5)

    def sent():
        """Which of five requests go into a batch, and its number."""
        batch = ledger.begin_batch("a", "http://a", "m")
        rows = {f"k{i}": {**WHO, "body": {}, "dollars": 1.0, "batch": batch} for i in range(5)}
        return [key for key, row in rows.items() if ledger.begin(key, **row)], batch

    keys, number = sent()
    assert keys == ["k1", "k2"]
    assert ledger.spent() == 2.5
    (batch,) = ledger.open_batches("http://a", "m")
    assert list(batch.attempts) == keys
    assert ledger.begin("k1", body={}, **WHO) is None, "a batch holds it"
    assert ledger.end_batch(number, "completed")
    assert not ledger.end_batch(number, "failed"), "two processes may come to it"
    ledger.replied(batch.attempts["k1"], b"raw")
    ledger.settled(batch.attempts["k1"], "replied", 1, 1, dollars=0.25)
    ledger.failed(batch.attempts["k2"], "HTTP 500", is_billed=False)
    assert (ledger.spent(), ledger.open_batches("http://a", "m")) == (0.75, [])
    assert sent()[0] == ["k2", "k3"], "neither what has a reply nor what is too dear"


# ---- versions, and what is in it ----


@pytest.mark.parametrize("version", [0, 2, 99])
def test_a_ledger_of_another_version_is_refused(tmp_path, version):
    ledger = filled(tmp_path / "ledger.sqlite", 1)
    ledger.db.execute(f"pragma user_version = {version}")
    ledger.db.close()
    assert "not of this version" in refused(ledger.path)


def test_what_is_in_it_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "ledger", lambda profile: tmp_path / f"{profile}.sqlite")
    with pytest.raises(UserError, match="nothing has been asked under PROFILE=mini"):
        module.main("mini")
    assert not list(tmp_path.iterdir())
    ledger = Ledger(tmp_path / "mini.sqlite")
    paid = reserved(ledger)
    ledger.replied(paid, b"")
    ledger.settled(paid, "replied", 1234, 5, dollars=0.75)
    ledger.failed(reserved(ledger, "l"), "HTTP 500")
    ledger.begin("m", body={}, **WHO | {"model": "cheap"})
    ledger.begin("n", body={}, **WHO, batch=ledger.begin_batch("a", "e", "m"), dollars=0.5)
    module.main("mini")
    printed = capsys.readouterr().out
    for expected in ("1,234", "HTTP 500", "in a batch", "unknown", "2.25 US dollars"):
        assert expected in printed, printed
