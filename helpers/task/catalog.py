"""Skills, topics, their split into training and held-out parts, and the queries drawn from them.

[ZK24] section 3. Reads our own format and that of the public reference implementation: a CSV of
skills, a text file of topics.
"""

import csv
import functools
import itertools
import math
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.errors import UserError

SKIPPED_STATUS = {"remove", "in review", "maybe"}  # as the reference implementation does
MOST_DRAWS = 10_000  # for one query; a share of the pool that is smaller is called none
SETTINGS = {
    "I": "training skills and topics",
    "II": "held-out skills and topics",
    "III": "all skills and topics",
}


@dataclass(frozen=True)
class Skill:
    name: str
    category: str
    definition: str
    example: str


def bare(name: str) -> str:
    """A name as texts and the embedded world have it: lower case, up to the first parenthesis."""
    return name.split("(")[0].strip().lower()


@dataclass(frozen=True)
class Query:
    """One task: write a text on the topic that shows all the skills.

    The control's texts also mention things, which show no skill: they make a text as long as one of
    several skills, and nothing in it is combined. A request lists them like skills, whoever the
    teacher is; definitions are of the skills alone, and so are the judge's criteria.
    """

    topic: str
    skills: tuple[Skill, ...]
    things: tuple[str, ...] = ()

    @property
    def k(self) -> int:
        return len(self.skills)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(skill.name for skill in self.skills)

    @property
    def items(self) -> tuple[str, ...]:
        """What a request lists: its skills; with things among them, in the query's own order."""
        items = [*self.names, *self.things]
        if self.things:
            seed = "/".join((self.topic, *items))
            random.Random(seed).shuffle(items)
        return tuple(items)

    @property
    def kind(self) -> str:
        """`3` for three skills, `1+2` for a skill and two things, as in `texts` and mixes."""
        if not self.things:
            return str(self.k)
        return f"{self.k}+{len(self.things)}"

    @property
    def identity(self) -> tuple[str, frozenset[str]]:
        """Two queries are the same when topic and *set* of skills and things are."""
        return self.topic, frozenset(self.items)


@dataclass(frozen=True)
class Pool:
    """The skills and topics that a setting draws from."""

    skills: tuple[Skill, ...]
    topics: tuple[str, ...]

    def distinct(self, k: int, pairs_apart: float = 0.0) -> int:
        """How many distinct queries of k skills there are, none of whose pairs is kept apart."""
        if not pairs_apart:
            return len(self.topics) * math.comb(len(self.skills), k)
        names = tuple(skill.name for skill in self.skills)
        return len(self.topics) * sets_together(names, k, pairs_apart)


def read_text(path: Path) -> str:
    """A file of the user's.

    Raises:
        UserError: it cannot be read, or is no text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as e:
        raise UserError(f"{path}: {e.strerror.lower()}") from None
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: not UTF-8 text (byte {e.start}); save it as UTF-8") from None


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a CSV that has these columns, and perhaps others.

    Rows whose `status`, where there is such a column, is remove, in review or maybe are skipped.

    Raises:
        UserError: a missing file or column, an empty cell.
    """
    reader = csv.DictReader(read_text(path).splitlines(keepends=True), restval="")
    if not set(columns) <= set(reader.fieldnames or ()):
        raise UserError(f"{path}: the header must hold {', '.join(columns)}")
    for row in reader:
        if row.get("status", "").strip().lower() in SKIPPED_STATUS:
            continue
        empty = [column for column in columns if not row[column].strip()]
        if empty:
            raise UserError(f"{path}, line {reader.line_num}: empty {', '.join(empty)}")
        yield row


def check_distinct(path: Path, kind: str, names: Sequence[str]) -> None:
    """Are there names, and each but once, in upper or lower case?"""
    if not names:
        raise UserError(f"{path}: no {kind} in it")
    counts = Counter(name.lower() for name in names)
    ((name, count),) = counts.most_common(1)
    if count > 1:
        raise UserError(f"{path}: {kind} {name} stands more than once")


def load_skills(path: Path) -> list[Skill]:
    """The skills of a CSV, as `read_rows` has it; names are stripped.

    Raises:
        UserError: what `read_rows` raises, a repeated skill, no skill at all.
    """
    skills = []
    for row in read_rows(path, ("category", "skill", "definition", "example")):
        name = row["skill"].strip()
        category = row["category"].strip()
        skills.append(Skill(name, category, row["definition"], row["example"]))
    check_distinct(path, "skill", [skill.name for skill in skills])
    return skills


def load_things(path: Path) -> dict[str, list[str]]:
    """Things to mention, by topic: a CSV with the columns topic and thing, any number a topic.

    The miniature's are in the world's language: `pale needle`. For any other teacher name
    phrases that read well in a list of skills, without a comma: `mention of a silver needle`. The
    judge's criteria stay the one skill, topic, sense, sentences; nobody checks that a thing is
    mentioned, so look at a few texts before you rely on their length.

    Raises:
        UserError: what `read_rows` raises, a thing that holds a comma.
    """
    things = defaultdict(list)
    for row in read_rows(path, ("topic", "thing")):
        if "," in row["thing"]:
            raise UserError(f"{path}: {row['thing']}: a comma; prompts list things with commas")
        things[row["topic"]].append(row["thing"].strip())
    return things


def load_topics(path: Path) -> list[str]:
    """One topic a line, stripped; empty lines are skipped.

    Raises:
        UserError: a missing file, a repeated topic, no topic at all.
    """
    topics = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    check_distinct(path, "topic", topics)
    return topics


def split(
    skills: list[Skill],
    topics: list[str],
    *,
    training_categories: list[str],
    training_topics: int | list[str],
    seed: int,
) -> dict[str, Pool]:
    """The pools of settings I, II and III.

    Args:
        training_categories: skills of these categories are for training, all others held out.
        training_topics: how many topics, drawn with `seed`, or which ones.

    Raises:
        UserError: a category or topic that the catalog does not have, or a part that is empty.
    """
    if isinstance(training_topics, int):
        n = min(training_topics, len(topics))
        training_topics = random.Random(f"{seed}/topics").sample(topics, n)
    check_known("categories", training_categories, {skill.category for skill in skills})
    check_known("topics", training_topics, topics)
    trained = tuple(skill for skill in skills if skill.category in training_categories)
    held_out = tuple(skill for skill in skills if skill not in trained)
    seen = tuple(topic for topic in topics if topic in training_topics)
    unseen = tuple(topic for topic in topics if topic not in seen)
    pools = {
        "I": Pool(trained, seen),
        "II": Pool(held_out, unseen),
        "III": Pool(tuple(skills), tuple(topics)),
    }
    for name, pool in pools.items():
        if not pool.skills or not pool.topics:
            raise UserError(
                f"training_topics: with training_categories the split leaves setting {name}"
                f" ({SETTINGS[name]}) without skills or topics"
            )
    return pools


def check_known(kind: str, names: Collection[str], known: Collection[str]) -> None:
    """Does the catalog have them?"""
    unknown = set(names) - set(known)
    if unknown:
        raise UserError(
            f"training_{kind}: {', '.join(sorted(unknown))} not in the catalog,"
            f" whose {kind} are {', '.join(sorted(known))}"
        )


def split_rows(pools: dict[str, Pool]) -> list[dict]:
    """The split as rows for a file: setting, skills, topics."""
    rows = []
    for name, pool in pools.items():
        skills = [skill.name for skill in pool.skills]
        rows.append({"setting": name, "skills": skills, "topics": pool.topics})
    return rows


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

    From k = 2 on none whose identity is in `avoid`, the evaluation queries of setting I, and none
    with a pair of skills that is kept apart. At k = 1 there are too few pairs of a topic and a
    skill to reserve any (docs/protocol.md, "Settled").

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


def count_apart(names: Iterable[str], share: float) -> int:
    """How many pairs of these skills are kept apart: no text for training shows both.

    The names of a pair decide, whatever else the catalog holds; about `share` of all are apart.
    """
    pairs = itertools.combinations(sorted(names), 2)
    return sum(zlib.crc32("+".join(pair).encode()) < share * 2**32 for pair in pairs)


@functools.cache
def sets_together(names: tuple[str, ...], k: int, pairs_apart: float) -> int:
    """How many sets of k of these skills hold no pair that is kept apart."""
    if k == 1:
        return len(names)
    total = 0
    for number, name in enumerate(names):
        joined = [other for other in names[:number] if not count_apart((name, other), pairs_apart)]
        total += sets_together(tuple(joined), k - 1, pairs_apart)
    return total


def counts_of(kind: str) -> tuple[int, int]:
    """How many skills and things a kind of texts has: `3` is (3, 0), `1+2` is (1, 2)."""
    skills, _, things = kind.partition("+")
    return int(skills), int(things or 0)


def padded(
    queries: Iterator[Query], n: int, things: dict[str, list[str]], *, seed: int
) -> Iterator[Query]:
    """The queries, each with n things of its topic to mention."""
    rng = random.Random(f"{seed}/things/{n}")
    for query in queries:
        drawn = rng.sample(things[query.topic], n)
        yield replace(query, things=tuple(drawn))
