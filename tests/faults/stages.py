"""Generating and grading as the stages do, in this process or in one that is killed."""

from itertools import islice

from helpers import corpus
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.judge.grade import grade
from helpers.profile import load
from helpers.task.queries import training_queries
from tests.forks import forks

AT_ONCE = 8
FORKS = forks(__name__)


def profile(url):
    where = {"base_url": url, "concurrency": AT_ONCE}
    endpoints = {
        "teacher": Endpoint(model="teacher", **where),
        "judge": Endpoint(model="judge", takes_n=False, **where),
    }
    return load.load_profile("smoke")["01_generate"].model_copy(
        update={"texts": {"2": 20, "3": 20}, **endpoints}
    )


def generated(url, path):
    """What 01_generate does."""
    return corpus.build(profile(url), Ledger(path))


def graded(url, path, records):
    """What 03_grade does with answers: here the corpus's texts, put to other queries."""
    p = profile(url)
    queries = list(islice(training_queries(p.pools()["I"], 3, seed=p.seed, avoid=set()), 30))
    texts = [record["text"] for record in records[:30]]
    graded = grade(queries, texts, p.pack(), p.judge, Ledger(path), gradings=3, rules=p.rules())
    return [[points.numbers for points in g.gradings] for g in graded]


def work(url, path):
    graded(url, path, generated(url, path))
