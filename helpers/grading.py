"""A text's grades ([YK23] section 3): the judge is asked, sentences are counted, gradings vote, points become metrics.

What the judge says is read by `verdicts`. A reply that cannot be read is asked again within the ledger's budget; what
stays unreadable is no grading: the vote is over the readable ones, and a text without any has no points and is left out.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import sentencex

from helpers import chat
from helpers.catalog import Query
from helpers.endpoint import Endpoint
from helpers.ledger import Ledger
from helpers.prompts import Pack, criteria, grading_turn, sentence_limit
from helpers.replies import Reply, Request, outcome
from helpers.verdicts import Verdict, own_verdict


def reference_count(text: str) -> int:
    """The reference implementation's count: ends of sentences that a capital follows, and one (protocol, "File formats").

    The protocol says "any quotes" around the space; the reference's own code has the straight ones only, so curly quotes
    are where the two differ. Right, as a person counts, in 54 of the 100 texts of tests/data/sentences.csv, which were
    chosen to be hard for it.
    """
    text = re.sub(r"(Mr|Mrs|Ms|Dr|Prof). ", r"\1.", text)
    return 1 + len(re.findall(r"[.!?][\"'“”‘’]* [\"'“”‘’]*[A-Z]", text))


def library_count(text: str) -> int:
    """The count of sentencex, which needs no data of its own: right in 85 of the same 100 texts.

    So are pysbd 0.3.4 (last released in 2021) and nupunkt 0.8; sentence-splitter 1.4 has 78, blingfire 76, syntok 75.
    """
    return sum(bool(sentence.strip()) for sentence in sentencex.segment("en", text))


COUNTERS: dict[str, Callable[[str], int]] = {"reference": reference_count, "sentencex": library_count}


@dataclass(frozen=True)
class Graded:
    """What a judge made of a text."""

    gradings: list[tuple[int, ...]]  # the points of each readable grading, in the rubric's order
    unreadable: list[str]  # why, for each reply that could not be read, asked again or not

    @property
    def points(self) -> tuple[int, ...] | None:
        return majority(self.gradings)


def corrected(points: Sequence[int], text: str, query: Query, *, sentence_counter: str, deduct_named_skills: bool) -> tuple[int, ...]:
    """A grading's points after what is decided in code.

    The last point is replaced by the count of sentences; where skills that the text names are deducted ([YK23]), those
    points are 0: a name counts up to its first "(", in upper or lower case, inside of longer words too.
    """
    names = [name.split("(")[0].strip().lower() for name in query.names]
    skills = [0 if deduct_named_skills and name in text.lower() else p for p, name in zip(points[: query.k], names, strict=True)]
    return (*skills, *points[query.k : -1], int(COUNTERS[sentence_counter](text) <= sentence_limit(query.k)))


def majority(gradings: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """Each criterion's point by majority over the readable gradings; a tie is 0; None without any grading."""
    if not gradings:
        return None
    return tuple(int(2 * sum(points) > len(gradings)) for points in zip(*gradings, strict=True))


def metrics(points: Sequence[int]) -> dict[str, float]:
    """The three metrics of one generation from its k + 3 points ([YK23]).

    full_marks: all points. all_skills: all k skills and at least two of the other three. skill_fraction: the share of
    skills shown if the other three are all earned, else 0.
    """
    skills, other = points[:-3], points[-3:]
    return {
        "full_marks": float(all(points)),
        "all_skills": float(all(skills) and sum(other) >= 2),
        "skill_fraction": sum(skills) / len(skills) if all(other) else 0.0,
    }


def grade(
    queries: Sequence[Query],
    texts: Sequence[str],
    pack: Pack,
    judge: Endpoint,
    ledger: Ledger,
    *,
    gradings: int,
    sentence_counter: str = "reference",
    deduct_named_skills: bool = False,
) -> list[Graded]:
    """Ask the judge for `gradings` gradings of each text; equal texts for equal queries are one question.

    Returns:
        What each text got: fewer than `gradings` gradings where the judge stayed unreadable after re-asking. A reply that
        serves several equal texts has its reason, if it could not be read, with the first of them only.
    """
    turns = [grading_turn(query, text, pack) for query, text in zip(queries, texts, strict=True)]
    asked = {turn: (query, text) for turn, query, text in zip(turns, queries, texts, strict=True)}

    @cache  # a reply is looked at more than once
    def read(turn: str, reply: str) -> Verdict:
        query, text = asked[turn]
        return own_verdict(reply, criteria(query, pack.rubric), text)

    def usable(request: Request, reply: Reply) -> bool:
        return read(request.messages[0]["content"], reply.text).points is not None

    def reasons(request: Request) -> list[str]:
        """Why replies were unreadable, of those that the ledger holds and `ask` looked at."""
        looked_at: list[Reply] = []
        outcome(request, judge, ledger, usable=lambda reply: looked_at.append(reply) or usable(request, reply))
        found = [read(request.messages[0]["content"], reply.text) for reply in looked_at]
        return [verdict.reason for verdict in found if verdict.points is None]

    requests = [Request([{"role": "user", "content": turn}], n=gradings) for turn in asked]
    replies = dict(zip(asked, chat.ask(requests, judge, ledger, stage="judge", usable=usable, what="texts graded"), strict=True))
    unreadable = {turn: reasons(request) for turn, request in zip(asked, requests, strict=True)}
    graded = []
    for query, text, turn in zip(queries, texts, turns, strict=True):
        rules = {"sentence_counter": sentence_counter, "deduct_named_skills": deduct_named_skills}
        votes = [corrected(read(turn, reply.text).points, text, query, **rules) for reply in replies[turn]]
        graded.append(Graded(votes, unreadable.pop(turn, [])))
    return graded
