"""What a stage would ask, train and cost, before anything is spent.

Needs no key, no corpus and no model. Tokens are estimated from characters; the ranges are stated
assumptions. Of what is asked, replies that the ledger holds are taken off.
`helpers.run.profile_plan` prints a whole profile's plan.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

import numpy as np
import pandas as pd

from helpers.chat.conversation import Conversation, converse
from helpers.chat.endpoint import Endpoint, host
from helpers.chat.ledger import Ledger
from helpers.chat.money import CHARACTERS_PER_TOKEN, cost, price_of
from helpers.chat.replies import Outcome, Reply, Request
from helpers.judge.grade import grading_request, turn_of
from helpers.profile.schema import Finetune, Generate, Grade
from helpers.task.catalog import Query
from helpers.task.mixes import in_words
from helpers.task.points import FIRST_JUDGE
from helpers.task.prompts import Pack, generation_turns, grading_turn

# A short text with its explanation: few words, or many and a model that reasons.
ANSWER_TOKENS = np.array([60, 400])
GRADE_TOKENS = np.array([120, 900])  # a table of k + 3 rows with an explanation, likewise
KEPT = np.array([0.9, 0.3])  # share of the teacher's texts with full marks, from well to badly
SAMPLE = 200  # queries that the mean prompt length is taken from
ANSWER = "x" * CHARACTERS_PER_TOKEN * ANSWER_TOKENS[0]  # in place of one not yet written
# Columns whose cells are arrays of two numbers, low and high; minutes and dollars may be unknown.
RANGES = ("requests", "input tokens", "output tokens", "minutes", "dollars")
UNKNOWN = {"minutes": "a day a batch", "dollars": "price unknown"}


def shown(low: float, high: float, digits: int = 0) -> str:
    """`600 to 1,200`, or one number where both are the same."""
    ends = [f"{end:,.{digits}f}" for end in (low, high)]
    return " to ".join(dict.fromkeys(ends))


def ranges(table: pd.DataFrame) -> pd.DataFrame:
    """The plan's rows as people read them."""
    table = table.copy()
    for name in RANGES:
        digits = 2 if name == "dollars" else 0
        table[name] = [
            UNKNOWN[name] if np.isnan(ends).any() else shown(*ends, digits) for ends in table[name]
        ]
    return table


# ---- how much, how long, for how many dollars ----


def minutes(
    endpoint: Endpoint, requests: np.ndarray, tokens: np.ndarray, ledger: Ledger | None
) -> np.ndarray:
    """How long requests take at the endpoint's limits, and at the speed of its last replies.

    Not a number for batches, which come within a day.

    Args:
        tokens: in all, as rate limits count them: what is sent, and the most that may come back.
        ledger: its last replies give the speed; without any, the endpoint's `reply_seconds` do.
    """
    if endpoint.batch_api:
        return np.full(2, np.nan)
    measured = ledger and ledger.seconds(endpoint.base_url, endpoint.model)
    seconds = measured or np.array(host(endpoint.base_url).reply_seconds)
    limits = [
        requests * seconds / endpoint.concurrency / 60,
        requests / (endpoint.requests_per_minute or np.inf),
        tokens / (endpoint.tokens_per_minute or np.inf),
    ]
    return np.max(limits, axis=0)


def row(
    stage: str,
    what: str,
    endpoint: Endpoint,
    replies: float | np.ndarray,
    sent: float | np.ndarray,
    written: np.ndarray,
    *,
    n: int = 1,
    stored: int = 0,
    ledger: Ledger | None = None,
) -> dict:
    """One line of the plan.

    Args:
        replies: how many sets of `n` replies the stage asks for.
        sent: tokens that a request sends.
        written: tokens of a reply.
        stored: requests whose replies are stored, and which are not counted.
    """
    calls, choices = (1, n) if endpoint.takes_n else (n, 1)
    missing = np.maximum(np.full(2, calls) * replies - stored, 0)
    tokens_in, tokens_out = missing * sent, missing * choices * written
    limited = tokens_in + missing * choices * endpoint.max_tokens
    price = price_of(endpoint)
    return {
        "stage": stage,
        "what": what,
        "model": endpoint.model,
        "stored": stored,
        "requests": missing,
        "input tokens": tokens_in,
        "output tokens": tokens_out,
        "minutes": minutes(endpoint, missing, limited, ledger),
        "dollars": cost((tokens_in, tokens_out), price) if price else np.full(2, np.nan),
    }


def mean_tokens(texts: Collection[str]) -> float:
    return sum(map(len, texts)) / CHARACTERS_PER_TOKEN / max(1, len(texts))


def sent_in_turns(queries: Sequence[Query], pack: Pack, turns: int) -> np.ndarray:
    """Mean input tokens of a turn: each turn is sent with all turns and replies before it."""
    asked = [generation_turns(query, pack)[:turns] for query in queries]
    lengths = np.array([[len(turn) for turn in turns] for turns in asked])
    before = (turns - 1) / 2 * ANSWER_TOKENS
    return lengths.cumsum(axis=1).mean() / CHARACTERS_PER_TOKEN + before


def questions_of(texts: Iterable[tuple[Query, str]], pack: Pack, n: int) -> dict[str, Request]:
    """The questions of n gradings of each text, by their words: equal texts are one question."""
    requests = [grading_request(query, text, pack, gradings=n) for query, text in texts if text]
    return {turn_of(request): request for request in requests}


def look(
    requests: Collection[Request], endpoint: Endpoint, ledger: Ledger
) -> tuple[int, list[Reply | None]]:
    """What the ledger holds of requests, not counting what was asked again.

    Returns:
        How many of them are stored (where the endpoint takes no n, each reply is a request of its
        own), and the first reply to each, or None.
    """
    stored, replies = 0, []
    for request in requests:
        outcome = Outcome(request, endpoint, re_asks=0)
        missing = len(outcome.look(ledger))
        stored += (1 if endpoint.takes_n else request.n) - missing
        replies.append(outcome.first)
    return stored, replies


# ---- 01 ----


def stored_texts(p: Generate, kind: str, ledger: Ledger) -> tuple[int, int]:
    """How many of the requests that `corpus` makes for texts of a kind the ledger holds.

    Returns:
        The number of those to the teacher, and of those to the judge.
    """
    pack, samples = p.pack(), Counter()  # how often a query came
    written = judged = 0

    def from_ledger(requests: list[Request]) -> list[Reply | None]:
        nonlocal written
        stored, replies = look(requests, p.teacher, ledger)
        written += stored
        return replies

    queries = islice(p.queries(kind), round(p.texts[kind] * p.queries_per_text))
    before = -1  # asked in this order: after a batch of which nothing is stored, nothing more is
    while written > before and (several := list(islice(queries, 256))):
        before, replicates = written, []
        for query in several:
            replicates.append(samples[query.identity])
            samples[query.identity] += 1
        turns = len(pack.generation)
        conversations = converse(from_ledger, several, replicates, pack, turns=turns)
        texts = [talk.text if talk else "" for talk in conversations]
        questions = questions_of(zip(several, texts, strict=True), pack, p.filter_gradings)
        judged += look(questions.values(), p.judge, ledger)[0]
    return written, judged


def plan_generate(p: Generate, ledger: Ledger | None = None) -> pd.DataFrame:
    """What the teacher and the filter's judge are asked; with a ledger, what of it is missing."""
    rows, pack = [], p.pack()
    turns = len(pack.generation)
    for kind, texts in p.texts.items():
        written, judged = stored_texts(p, kind, ledger) if ledger and not p.corpus else (0, 0)
        sample = list(islice(p.queries(kind), SAMPLE))
        if not p.corpus:
            teacher = row(
                "01_generate",
                f"teacher, k = {kind}: {texts:,} texts",
                p.teacher,
                texts / KEPT * turns,
                sent_in_turns(sample, pack, turns),
                ANSWER_TOKENS,
                stored=written,
                ledger=ledger,
            )
            rows.append(teacher)
        is_claimed = p.corpus and p.corpus_grades == "claimed"  # then nobody is asked
        judge = row(
            "01_generate",
            f"judge, k = {kind}",
            p.judge,
            0 if is_claimed else texts / KEPT,
            mean_tokens([grading_turn(query, ANSWER, pack) for query in sample]),
            GRADE_TOKENS,
            n=p.filter_gradings,
            stored=judged,
            ledger=ledger,
        )
        rows.append(judge)
    return pd.DataFrame(rows)


# ---- 02 ----


def plan_finetune(p: Finetune) -> str:
    """What a training does, in a line."""
    mix = ", ".join(f"{name}: {texts}" for name, texts in p.mix.items())
    if "chats" not in p.mix:
        mix = ", ".join(in_words(kind, amount) for kind, amount in p.mix.items())
    return (
        f"{p.student}, {p.steps:,} steps of {p.batch} texts ({mix}),"
        f" at most {p.chat_tokens} tokens each; {p.topology}"
    )


# ---- 03 ----


def plan_gradings(
    p: Grade,
    tasks: Sequence,
    answers: Sequence[Conversation],
    ledger: Ledger | None = None,
    *,
    judges: dict[str, Endpoint] | None = None,
    models: int = 1,
) -> pd.DataFrame:
    """What the judges are asked for a student's answers, request by request.

    Args:
        tasks: those of `evaluate.tasks`.
        answers: those of `evaluate.answers`, one for each task.
        judges: by name; by default those that are enabled.
        models: for how many models, with as many answers each, the numbers are to be.
    """
    packs, rows = p.packs(), []
    texts = [(t.query, answer.text) for t, answer in zip(tasks, answers, strict=True)]
    for name, judge in (judges or p.judges()).items():
        questions = questions_of(texts, packs[name], p.gradings)
        graded = len(questions) * models
        of = f"{models} model" + ("" if models == 1 else "s")
        title = "judge" if name == FIRST_JUDGE else f"judge {name}"
        line = row(
            "03_grade",
            f"{title}: {graded:,} different answers of {of} x {p.gradings} gradings",
            judge,
            graded,
            mean_tokens(questions),
            GRADE_TOKENS,
            n=p.gradings,
            stored=look(questions.values(), judge, ledger)[0] if ledger else 0,
            ledger=ledger,
        )
        rows.append(line)
    return pd.DataFrame(rows)
