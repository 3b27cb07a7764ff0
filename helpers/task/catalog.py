"""Skills, topics, their split into training and held-out parts, and what a query of them is.

[ZK24] section 3. Reads our own format and that of the public reference implementation: a CSV of
skills, a text file of topics.
"""

import csv
import math
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.errors import UserError
from helpers.task.pairs import sets_together

SKIPPED_STATUS = {"remove", "in review", "maybe"}  # as the reference implementation does
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

    The control's texts also mention things, which show no skill: they make a text as long as one
    that shows several skills, and nothing in it is combined. A request lists things among the
    skills, but defines the skills only, and the judge grades the skills only.
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
        """What a request lists: its skills; where there are things, both in a shuffled order."""
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
    """Check that there are names, each once, whether in upper or lower case.

    Raises:
        UserError: there are none, or one stands more than once.
    """
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
    """Check that the catalog has these categories or topics.

    Raises:
        UserError: it lacks some; names those that it has.
    """
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
