"""Has texts graded: the judge is asked, its replies are read, the gradings vote ([YK23] section 3).

A reply that cannot be read is asked again, within the client's budget of re-asks. What stays
unreadable is no grading: the vote is over the readable ones, and a text without any has no points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from helpers.chat import client
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Reply, Request, Unreadable
from helpers.judge.injection import own_verdict
from helpers.task.catalog import Query
from helpers.task.points import Points, Rules, majority
from helpers.task.prompts import Pack, criteria, grading_turn


@dataclass(frozen=True)
class Graded:
    """What a judge made of a text."""

    gradings: list[Points]  # one a readable reply
    unreadable: list[str]  # why, for each reply that could not be read, asked again or not

    @property
    def points(self) -> Points | None:
        """By majority over the gradings; None without any."""
        return majority(self.gradings)


def grade(
    queries: Sequence[Query],
    texts: Sequence[str],
    pack: Pack,
    judge: Endpoint,
    ledger: Ledger,
    *,
    gradings: int,
    rules: Rules,
) -> list[Graded]:
    """Ask the judge for `gradings` gradings of each text.

    Equal texts for equal queries are one question.

    Returns:
        What each text got: fewer than `gradings` gradings where the judge stayed unreadable after
        it was asked again. A reply that serves several equal texts has its reason, if it could not
        be read, with the first of them only.
    """
    turns = [grading_turn(query, text, pack) for query, text in zip(queries, texts, strict=True)]
    questions = {
        turn: (query, text) for turn, query, text in zip(turns, queries, texts, strict=True)
    }

    def read(request: Request, reply: Reply) -> Points | Unreadable:
        query, text = questions[request.messages[0]["content"]]
        verdict = own_verdict(reply.text, criteria(query, pack.rubric), text)
        if verdict.points is None:
            return Unreadable(verdict.reason)
        return rules.apply(Points.of(verdict.points), text, query)

    requests = [Request([{"role": "user", "content": turn}], n=gradings) for turn in questions]
    answers = client.ask(requests, judge, ledger, role="judge", read=read, what="texts graded")
    by_turn = dict(zip(questions, answers, strict=True))
    graded = []
    reported = set()
    for turn in turns:
        answer = by_turn[turn]
        graded.append(Graded(answer.usable, [] if turn in reported else answer.unreadable))
        reported.add(turn)
    return graded
