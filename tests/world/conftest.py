"""The miniature's catalog and prompts, a ledger, and somebody to ask."""

import random

import pytest

from helpers.chat import client
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.paths import ROOT
from helpers.task.catalog import Query, load_skills, load_topics
from helpers.task.prompts import load_pack


@pytest.fixture(scope="session")
def pack():
    folder = ROOT / "params/prompts/terse"
    return load_pack(folder / "generation.json", folder / "grading.json")


@pytest.fixture(scope="session")
def skills():
    return load_skills(ROOT / "params/catalog/miniature/skills.csv")


@pytest.fixture(scope="session")
def topics():
    return load_topics(ROOT / "params/catalog/miniature/topics.txt")


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "ledger.sqlite")


@pytest.fixture
def queries(skills, topics):
    """Makes n random queries, of k skills or of 1 to 5."""

    def make(n, k=None):
        rng = random.Random(0)
        made = []
        for _ in range(n):
            topic = rng.choice(topics)
            made.append(Query(topic, tuple(rng.sample(skills, k or rng.randint(1, 5)))))
        return made

    return make


@pytest.fixture
def ask_as(ledger):
    """Makes an `ask` of a conversation: one reply to each request, by a model of the world."""

    def make(model, base_url="world:", ledger=ledger):
        endpoint = Endpoint(base_url=base_url, model=model)

        def ask(requests):
            outcomes = client.ask(requests, endpoint, ledger, role=model)
            return [outcome.first for outcome in outcomes]

        return ask

    return make
