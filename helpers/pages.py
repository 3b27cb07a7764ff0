"""Graded texts in full, as HTML: what was asked, each judge's replies and what was read of them.

Their form is in `pages.html`.
"""

from pathlib import Path

import jinja2

from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Outcome, Reply, Request, Unreadable
from helpers.judge.grade import grading_request, read_reply
from helpers.mark import marked
from helpers.results.scores import METRICS
from helpers.task.catalog import Query
from helpers.task.points import Points, Rules, majority
from helpers.task.prompts import Pack, criteria

# The macros of `pages.html`, to be called.
PAGES = (
    jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    .from_string(
        Path(__file__).with_suffix(".html").read_text(encoding="utf-8"),
        globals={"marked": marked, "metrics": METRICS},
    )
    .module
)


def judgement(
    judge: Endpoint, query: Query, text: str, pack: Pack, rules: Rules, *, n: int, ledger: Ledger
) -> tuple[list[str], list[tuple[str, Points | Unreadable]], Points | None]:
    """What a judge said of a text in the `n` gradings that the ledger has; nothing is asked.

    Returns:
        The criteria, its replies with the points that were read of each or why none could be, and
        the points by majority.
    """
    replies = []

    def read(_: Request, reply: Reply) -> Points | Unreadable:
        grading = read_reply(reply, query, text, pack, rules)
        replies.append((reply.text, grading))
        return grading

    outcome = Outcome(grading_request(query, text, pack, gradings=n), judge, read)
    outcome.look(ledger)
    return criteria(query, pack.rubric), replies, majority(outcome.usable)
