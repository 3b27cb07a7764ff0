"""Has texts graded: the judge is asked, its replies are read, the gradings vote ([YK23] section 3).

A reply that cannot be read is asked for again, as often as the client's `re_asks` allow. What
stays unreadable counts as no grading: the vote is over the readable ones, and a text without any
has no points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Reply, Request, Unreadable
from helpers.errors import UserError
from helpers.judge import free_text, structured
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


def grading_request(query: Query, text: str, pack: Pack, *, gradings: int) -> Request:
    """What a judge is asked about a text; with a JSON schema where the pack asks for JSON."""
    messages = [{"role": "user", "content": grading_turn(query, text, pack)}]
    schema = None
    if pack.json_schema:
        items = criteria(query, pack.rubric)
        schema = structured.schema_of(items)
    return Request(messages, n=gradings, schema=schema)


def turn_of(request: Request) -> str:
    """The text of a grading request; requests with equal texts are one question."""
    return request.messages[0]["content"]


def replies(
    query: Query, text: str, pack: Pack, judge: Endpoint, ledger: Ledger, *, gradings: int
) -> list[str]:
    """What a judge said of a text, as it said it; it is asked only if it has not been yet."""
    from helpers.chat import client  # loads openai (half a second): only where somebody is asked

    request = grading_request(query, text, pack, gradings=gradings)
    (outcome,) = client.ask([request], judge, ledger, role="judge")
    return [reply.text for reply in outcome.usable]


def read_reply(
    reply: Reply, query: Query, text: str, pack: Pack, rules: Rules
) -> Points | Unreadable:
    """The points that a judge's reply gives to a text, by the rules; or why it cannot be read."""
    reader = structured.read_verdict if pack.json_schema else free_text.read_verdict
    items = criteria(query, pack.rubric)
    verdict = own_verdict(reply.text, items, text, reader)
    if verdict.points is None:
        return Unreadable(verdict.reason)
    points = Points.of(verdict.points)
    return rules.apply(points, text, query)


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

    Equal texts for equal queries are asked about once. An empty text has no points, and no judge is
    asked about it.

    Returns:
        What each text got: fewer than `gradings` gradings where the judge stayed unreadable after
        it was asked again. Where several equal texts share an unreadable reply, only the first of
        them has the reason.

    Raises:
        UserError: what `client.ask` raises, and a judge whose server does not keep to the schema.
    """
    from helpers.chat import client  # loads openai (half a second): only where somebody is asked

    tasks = list(zip(queries, texts, strict=True))
    turns = [grading_turn(query, text, pack) for query, text in tasks]
    questions = {turn: task for turn, task in zip(turns, tasks, strict=True) if task[1]}
    requests = [grading_request(*task, pack, gradings=gradings) for task in questions.values()]
    enforced = not pack.json_schema  # or a reply has fitted the schema

    def read(request: Request, reply: Reply) -> Points | Unreadable:
        nonlocal enforced
        query, text = questions[turn_of(request)]
        if not enforced:
            items = criteria(query, pack.rubric)
            enforced = structured.read_verdict(reply.text, items).points is not None
            is_begun = reply.cut and reply.text.lstrip().startswith("{")
            if reply.text.strip() and not enforced and not is_begun:
                raise UserError(
                    f"{judge.model} at {judge.base_url} did not keep to the JSON schema of"
                    " response_format; take a server that enforces it (one that does by now is"
                    " asked anew with another seed), or json_schema: false and grading_prompts"
                    " that ask for a table"
                )
        return read_reply(reply, query, text, pack, rules)

    answers = client.ask(requests, judge, ledger, role="judge", read=read, what="texts graded")
    by_turn = dict(zip(questions, answers, strict=True))
    unreadable = {turn: answer.unreadable for turn, answer in by_turn.items()}
    graded = []
    for turn, (query, text) in zip(turns, tasks, strict=True):
        if text:
            graded.append(Graded(by_turn[turn].usable, unreadable.pop(turn, [])))
        else:
            nothing = Points.of([0] * (query.k + 3))
            graded.append(Graded([nothing] * gradings, []))
    return graded
