"""Graded answers in full: what was asked, each judge's replies, and what was read of them."""

from collections.abc import Sequence

import pandas as pd
from rapidfuzz import fuzz, process

from helpers import text_tables
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Outcome, Reply, Request, Unreadable
from helpers.evaluate import Task, training_texts
from helpers.judge.grade import grading_request, read_reply
from helpers.profile.schema import Grade
from helpers.task.catalog import Query
from helpers.task.points import Points, Rules, majority
from helpers.task.prompts import Pack, criteria, generation_turns

PLACE = ("variant", "outcome", "setting", "k", "query", "generation")  # in a page's title


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


def in_full(p: Grade, query: Query, row: dict, ledger: Ledger) -> str:
    """HTML: an answer, or a text for training, with its prompt and the judges' replies as read.

    It also shows the most similar text among those that the model was trained on, if any.

    Args:
        row: a row of `text_tables.answers`, or of `explore.Run.corpus`, which has `messages`.
    """
    prompts = generation_turns(query, p.pack())[: p.student_turns]
    turns = [message["content"] for message in row.get("messages", ())] or prompts
    packs = p.packs()
    settings = {"n": p.gradings, "ledger": ledger}
    judgements = {}
    for name, judge in p.judges().items():
        read = judgement(judge, query, row["text"], packs[name], p.rules(), **settings)
        judgements[f"{name} ({judge.model})"] = read
    nearest_text = process.extractOne(row["text"], training_texts(p), scorer=fuzz.ratio)
    title = ", ".join(f"{name} {row[name]}" for name in PLACE if name in row)
    return text_tables.PAGES.in_full(title, turns, row, judgements, nearest_text)


def worked(
    p: Grade, every: Sequence[Task], answers: pd.DataFrame, ledger: Ledger
) -> text_tables.Page:
    """Several answers in full, one below the other.

    Args:
        every: all tasks; the index of `answers` says which of them each row answers.
        answers: rows of `text_tables.answers`.
    """
    pages = [in_full(p, every[i].query, row.to_dict(), ledger) for i, row in answers.iterrows()]
    return text_tables.Page("<hr>".join(pages))
