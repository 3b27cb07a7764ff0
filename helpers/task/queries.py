"""The queries of the evaluation and of the training, drawn with a seed ([ZK24] section 3)."""

import random
from collections.abc import Iterator
from dataclasses import replace

from helpers.errors import UserError
from helpers.task.catalog import Pool, Query
from helpers.task.pairs import count_apart

MOST_DRAWS = 10_000  # for one query: where fewer than 1 in so many would do, none is drawn


def draw(pool: Pool, k: int, *, seed: int, purpose: str) -> Iterator[Query]:
    """Endless random queries of k skills, uniform over topics and sets; the same at each call.

    Raises:
        UserError: the pool has fewer than k skills.
    """
    if len(pool.skills) < k:
        raise UserError(
            f"k = {k} needs {k} skills, and the pool for {purpose} has {len(pool.skills)}"
        )
    rng = random.Random(f"{seed}/{purpose}/{k}")
    while True:
        topic = rng.choice(pool.topics)
        skills = rng.sample(pool.skills, k)
        yield Query(topic, tuple(skills))


def evaluation_queries(pool: Pool, k: int, n: int, *, seed: int, setting: str) -> list[Query]:
    """n different queries, or all if there are fewer; a larger n adds to those of a smaller one."""
    queries = {}  # by identity
    for query in draw(pool, k, seed=seed, purpose=f"evaluation {setting}"):
        queries.setdefault(query.identity, query)
        if len(queries) == min(n, pool.distinct(k)):
            return list(queries.values())


def training_queries(
    pool: Pool, k: int, *, seed: int, avoid: set, pairs_apart: float = 0.0
) -> Iterator[Query]:
    """Endless queries, repeats allowed.

    From k = 2 on these are left out: queries whose identity is in `avoid`, which are those of the
    evaluation in setting I, and queries with a pair of skills that is kept apart. At k = 1 nothing
    is left out: there are too few pairs of a topic and a skill (docs/protocol.md, "Settled").

    Raises:
        UserError: no query is left, or so few that drawing would hardly meet one.
    """
    distinct = pool.distinct(k)
    left = left_for_training(pool, k, avoid=avoid, pairs_apart=pairs_apart)
    if left * MOST_DRAWS < distinct:  # without any, there are too few skills: `draw` says so
        apart = f", and pairs_apart = {pairs_apart}," if pairs_apart else ""
        raise UserError(
            f"k = {k}: the evaluation's queries{apart} leave {left:,} of {distinct:,} queries to"
            f" the training; lower {'pairs_apart or ' if apart else ''}evaluation_queries, or give"
            " more skills or topics to the training"
        )
    for query in draw(pool, k, seed=seed, purpose="training"):
        if query.identity not in avoid and not count_apart(query.names, pairs_apart):
            yield query


def left_for_training(pool: Pool, k: int, *, avoid: set, pairs_apart: float = 0.0) -> int:
    """How many distinct queries a training text may answer, as `training_queries` has it."""
    reserved = 0
    for _, names in avoid:
        reserved += len(names) == k and not count_apart(names, pairs_apart)
    return pool.distinct(k, pairs_apart) - reserved


def padded(
    queries: Iterator[Query], n: int, things: dict[str, list[str]], *, seed: int
) -> Iterator[Query]:
    """The queries, each with n things of its topic to mention."""
    rng = random.Random(f"{seed}/things/{n}")
    for query in queries:
        drawn = rng.sample(things[query.topic], n)
        yield replace(query, things=tuple(drawn))
