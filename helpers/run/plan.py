"""What a stage would ask, train and cost, before anything is spent.

Needs no key, no corpus and no model. Tokens are estimated from characters; the ranges are stated
assumptions. Of what is asked, replies that the ledger holds are taken off. `helpers.run.overview`
prints a whole profile's plan.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
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
from helpers.task.catalog import Pool, counts_of, draw
from helpers.task.points import FIRST_JUDGE
from helpers.task.prompts import generation_turns, grading_turn

# A short text with its explanation: few words, or many and a model that reasons.
ANSWER_TOKENS = np.array([60, 400])
GRADE_TOKENS = np.array([120, 900])  # a table of k + 3 rows with an explanation, likewise
KEPT = np.array([0.9, 0.3])  # share of the teacher's texts with full marks, from well to badly
SAMPLE = 200  # queries that the mean prompt length is taken from


def tokens(text: str) -> float:
    return len(text) / CHARACTERS_PER_TOKEN


def shown(low: float, high: float, digits: int = 0) -> str:
    """`600 to 1,200`, or one number where both are the same."""
    ends = [f"{end:,.{digits}f}" for end in (low, high)]
    return " to ".join(dict.fromkeys(ends))


def ranges(table: pd.DataFrame) -> pd.DataFrame:
    """The plan's rows as people read them: minutes and dollars from low to high in one cell."""
    table = table.copy()
    for what, digits, unknown in (("minutes", 0, "a day a batch"), ("dollars", 2, "price unknown")):
        ends = zip(table.pop(f"{what} low"), table.pop(f"{what} high"), strict=True)
        table[what] = [unknown if pd.isna(low) else shown(low, high, digits) for low, high in ends]
    return table


# ---- how much, how long, for how many dollars; ranges are arrays of two, from low to high ----


def minutes(
    endpoint: Endpoint,
    requests: np.ndarray,
    tokens_in: np.ndarray,
    choices: int,
    ledger: Ledger | None,
) -> np.ndarray:
    """How long the requests take at the endpoint's limits, and at the speed of its last replies.

    Not a number for batches, which come within a day.
    """
    if endpoint.batch_api:
        return np.full(2, np.nan)
    seconds = np.array(host(endpoint.base_url).reply_seconds)
    measured = ledger and ledger.seconds(endpoint.base_url, endpoint.model)
    if measured:
        seconds = np.full(2, measured)
    limits = [requests * seconds / endpoint.concurrency / 60]
    if endpoint.requests_per_minute:
        limits.append(requests / endpoint.requests_per_minute)
    if endpoint.tokens_per_minute:  # as rate limits count
        counted = tokens_in + requests * choices * endpoint.max_tokens
        limits.append(counted / endpoint.tokens_per_minute)
    return np.max(limits, axis=0)


def row(
    stage: str,
    what: str,
    endpoint: Endpoint,
    requests: np.ndarray,
    tokens_in: np.ndarray,
    tokens_out: np.ndarray,
    *,
    choices: int = 1,
    stored: int = 0,
    ledger: Ledger | None = None,
) -> dict:
    """One line of the plan.

    Args:
        requests: of all that the stage asks, as tokens are; those `stored` are taken off, and
            tokens in proportion.
        choices: replies a request.
    """
    missing = np.maximum(requests - stored, 0)
    share = missing / np.maximum(requests, 1)
    sent, back = tokens_in * share, tokens_out * share
    price = price_of(endpoint)
    dollars = np.full(2, np.nan) if price is None else cost((sent, back), price)
    time = minutes(endpoint, missing, sent, choices, ledger)
    return {
        "stage": stage,
        "what": what,
        "model": endpoint.model,
        "stored": stored,
        "requests": shown(*missing),
        "input tokens": shown(*sent),
        "output tokens": shown(*back),
        "minutes low": time[0],
        "minutes high": time[1],
        "dollars low": dollars[0],
        "dollars high": dollars[1],
    }


def look(
    requests: list[Request], endpoint: Endpoint, ledger: Ledger | None
) -> tuple[int, list[Reply | None]]:
    """What the ledger holds of requests, re-asks aside.

    Returns:
        How many of them are stored (each reply is one where the endpoint takes no n), and the
        first reply to each, or None.
    """
    if ledger is None:
        return 0, [None] * len(requests)
    stored, replies = 0, []
    for request in requests:
        outcome = Outcome(request, endpoint, re_asks=0)
        missing = len(outcome.look(ledger))
        stored += (1 if endpoint.takes_n else request.n) - missing
        replies.append(outcome.first)
    return stored, replies


def ways(endpoint: Endpoint, gradings: int) -> tuple[int, int]:
    """(requests a text, choices a request) for its gradings."""
    return (1, gradings) if endpoint.takes_n else (gradings, 1)


# ---- 01 ----


def mean_prompts(p: Generate | Grade, pool: Pool, k: int) -> tuple[list[float], float]:
    """Mean tokens of each generation turn, and of the grading turn of a short answer."""
    pack = p.pack()
    queries = list(islice(draw(pool, k, seed=0, purpose="plan"), SAMPLE))
    asked = [generation_turns(query, pack) for query in queries]
    turns = [sum(map(tokens, turn)) / SAMPLE for turn in zip(*asked, strict=True)]
    answer = "x" * CHARACTERS_PER_TOKEN * ANSWER_TOKENS[0]
    grading = sum(tokens(grading_turn(query, answer, pack)) for query in queries) / SAMPLE
    return turns, grading


def conversation(turns: list[float], answer: np.ndarray) -> np.ndarray:
    """Input tokens of a conversation: each turn is sent with all that was said before."""
    return sum(sum(turns[: i + 1]) + i * answer for i in range(len(turns)))


def stored_texts(p: Generate, kind: str, ledger: Ledger | None) -> tuple[int, int]:
    """How many of the requests that `corpus` makes for texts of a kind the ledger holds.

    Returns:
        To the teacher, to the judge.
    """
    pack = p.pack()
    written = judged = 0

    def from_ledger(requests: list[Request]) -> list[Reply | None]:
        nonlocal written
        stored, replies = look(requests, p.teacher, ledger)
        written += stored
        return replies

    queries = p.queries(kind)
    queries = islice(queries, round(p.texts[kind] * p.queries_per_text))
    samples: Counter = Counter()  # how often a query came
    while several := list(islice(queries, 256)):
        before, replicates = written, []
        for query in several:
            replicates.append(samples[query.identity])
            samples[query.identity] += 1
        turns = len(pack.generation)
        conversations = converse(from_ledger, several, replicates, pack, turns=turns)
        questions = {}  # equal texts are one
        for query, talk in zip(several, conversations, strict=True):
            if talk and talk.text:
                request = grading_request(query, talk.text, pack, gradings=p.filter_gradings)
                questions[turn_of(request)] = request
        judged += look(list(questions.values()), p.judge, ledger)[0]
        if written == before:  # asked in this order: nothing further on is stored
            break
    return written, judged


def plan_generate(p: Generate, ledger: Ledger | None = None) -> pd.DataFrame:
    """What the teacher and the filter's judge are asked; with a ledger, what of it is missing."""
    rows = []
    for k, n in p.texts.items():
        turns, grading = mean_prompts(p, p.pools()["I"], sum(counts_of(k)))
        written, judged = stored_texts(p, k, ledger) if ledger and not p.corpus else (0, 0)
        calls, choices = ways(p.judge, p.filter_gradings)
        queries = n / KEPT
        asked = queries * len(turns)
        if not p.corpus:
            rows.append(
                row(
                    "01_generate",
                    f"teacher, k = {k}: {n:,} texts",
                    p.teacher,
                    asked,
                    queries * conversation(turns, ANSWER_TOKENS),
                    asked * ANSWER_TOKENS,
                    stored=written,
                    ledger=ledger,
                )
            )
        if p.corpus and p.corpus_grades == "claimed":
            queries = 0 * queries  # nobody is asked
        rows.append(
            row(
                "01_generate",
                f"judge, k = {k}",
                p.judge,
                queries * calls,
                queries * calls * grading,
                queries * p.filter_gradings * GRADE_TOKENS,
                choices=choices,
                stored=judged,
                ledger=ledger,
            )
        )
    return pd.DataFrame(rows)


# ---- 02 ----


def training(p: Finetune) -> str:
    """What one training does, in a line."""
    if "chats" in p.mix:
        data = f"from {p.mix['chats']}"
    else:
        texts = sum(p.mix.values())
        passes = p.steps * p.batch / texts
        data = f"({passes:.1f} passes over {texts:,} texts)"
    most = p.steps * p.batch * p.chat_tokens
    return (
        f"{p.student}, {p.steps:,} steps of {p.batch} texts {data}, at most {p.chat_tokens} tokens"
        f" each, at most {most:,} in all; {p.topology}"
    )


def plan_finetune(p: Finetune) -> str:
    """What a variant's training does, in a line."""
    return f"{p.variant}: {training(p)}"


# ---- 03 ----


def row_of_judge(
    p: Grade,
    name: str,
    judge: Endpoint,
    what: str,
    answers: int,
    tokens_in: float,
    *,
    stored: int = 0,
    ledger: Ledger | None,
) -> dict:
    """A judge's line: `answers` graded, with `tokens_in` tokens of questions in all."""
    calls, choices = ways(judge, p.gradings)
    title = "judge" if name == FIRST_JUDGE else f"judge {name}"
    return row(
        "03_grade",
        f"{title}, {what} x {p.gradings} gradings",
        judge,
        np.full(2, answers * calls),
        np.full(2, tokens_in * calls),
        answers * p.gradings * GRADE_TOKENS,
        choices=choices,
        stored=stored,
        ledger=ledger,
    )


def plan_answers(p: Grade, ledger: Ledger | None = None) -> pd.DataFrame:
    """What a model with an address of its own is asked, none of whose answers is there."""
    pools, answers, sent = p.pools(), 0, 0.0
    for setting, k in itertools.product(p.settings, p.evaluation_ks):
        n = min(p.evaluation_queries, pools[setting].distinct(k)) * p.generations
        turns, _ = mean_prompts(p, pools[setting], k)
        answers += n
        sent += n * conversation(turns[: p.student_turns], ANSWER_TOKENS)
    what = f"model {p.variant}: {answers:,} answers"
    requests = np.full(2, answers * p.student_turns)
    written = requests * ANSWER_TOKENS
    line = row("03_grade", what, p.student, requests, sent, written, ledger=ledger)
    return pd.DataFrame([line])


def plan_grade(
    p: Grade,
    models: int = 1,
    *,
    judges: dict[str, Endpoint] | None = None,
    ledger: Ledger | None = None,
) -> pd.DataFrame:
    """What the judges are asked for `models` models, none of whose answers is there.

    Args:
        judges: by name; by default those that grade.
    """
    rows, pools = [], p.pools()
    judges = p.judges() if judges is None else judges
    for (name, judge), setting in itertools.product(judges.items(), p.settings):
        answers, sent = 0, 0.0
        for k in p.evaluation_ks:
            queries = min(p.evaluation_queries, pools[setting].distinct(k))
            n = queries * p.generations * models
            answers += n
            sent += n * mean_prompts(p, pools[setting], k)[1]
        what = f"setting {setting}: {answers:,} answers of {models} models"
        rows.append(row_of_judge(p, name, judge, what, answers, sent, ledger=ledger))
    return pd.DataFrame(rows)


def plan_gradings(
    p: Grade, tasks: Sequence, answers: Sequence[Conversation], ledger: Ledger
) -> pd.DataFrame:
    """What the judges are asked for a student's answers, request by request.

    Args:
        tasks: of `evaluate.tasks`.
        answers: of `evaluate.answers`, one a task.
    """
    packs, rows = p.packs(), []
    for (name, judge), setting in itertools.product(p.judges().items(), p.settings):
        questions = {}  # equal answers are one
        for task, answer in zip(tasks, answers, strict=True):
            if task.setting == setting and answer.text:
                request = grading_request(task.query, answer.text, packs[name], gradings=p.gradings)
                questions[turn_of(request)] = request
        stored, _ = look(list(questions.values()), judge, ledger)
        what = f"setting {setting}: {len(questions):,} different answers"
        sent = sum(map(tokens, questions))
        rows.append(
            row_of_judge(p, name, judge, what, len(questions), sent, stored=stored, ledger=ledger)
        )
    return pd.DataFrame(rows)
