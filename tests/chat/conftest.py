"""For the chat room's tests: a ledger, a key, and no waiting."""

import pytest

from helpers.chat import batch_api, money, retries
from helpers.chat.ledger import Ledger
from tests.faults.asking import SECRET


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.sqlite")


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def quick(monkeypatch):
    """No waiting between tries, and hardly any between looks at a batch."""
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(batch_api, "POLL", 0.01)


@pytest.fixture
def priced(monkeypatch):
    """Model m: one dollar a million input tokens, two a million output tokens."""
    monkeypatch.setattr(money, "prices", lambda: {"m": money.Price(1.0, 2.0)})
