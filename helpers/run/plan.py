"""What a profile would ask, train and cost, before anything is spent: `python -m helpers.run.plan paper`.

Needs no key, no corpus and no model. Tokens are estimated from characters; the ranges are stated assumptions. With a
ledger, what it holds is not counted: only what is missing is asked.
"""

import itertools
from collections.abc import Sequence
from itertools import islice

import pandas as pd
import yaml

from helpers import corpus, paths
from helpers.chat.conversation import Conversation, converse
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.money import CHARACTERS_PER_TOKEN, cost, price_of
from helpers.chat.replies import Outcome, Reply, Request
from helpers.errors import command
from helpers.profile.load import load_profile
from helpers.profile.schema import Finetune, Generate, Grade, Model
from helpers.task.catalog import Pool, counts_of, draw
from helpers.task.points import FIRST_JUDGE
from helpers.task.prompts import generation_turns, grading_turn

ANSWER_TOKENS = (
    60,
    400,
)  # a short text with its explanation: few words, or many and a model that reasons
GRADE_TOKENS = (120, 900)  # a table of k + 3 rows with an explanation, likewise
KEPT = (0.9, 0.3)  # share of the teacher's texts with full marks, from well to badly
REPLY_SECONDS = (5, 20)  # of a model that costs something, until the ledger has replies to measure
SAMPLE = 200  # queries that the mean prompt length is taken from

Range = tuple[float, float]  # low, high


def tokens(text: str) -> float:
    return len(text) / CHARACTERS_PER_TOKEN


def mean_prompts(p: Generate | Grade, pool: Pool, k: int) -> tuple[list[float], float]:
    """Mean tokens of each generation turn and of the grading turn (an answer of `ANSWER_TOKENS[0]` in it)."""
    pack, queries = (
        p.pack(),
        [q for q, _ in zip(draw(pool, k, seed=0, purpose="plan"), range(SAMPLE), strict=False)],
    )
    turns = [
        sum(tokens(t) for t in column) / SAMPLE
        for column in zip(*(generation_turns(q, pack) for q in queries), strict=True)
    ]
    answer = "x" * CHARACTERS_PER_TOKEN * ANSWER_TOKENS[0]
    return turns, sum(tokens(grading_turn(q, answer, pack)) for q in queries) / SAMPLE


def shown(some: Range) -> str:
    return (
        f"{some[0]:,.0f} to {some[1]:,.0f}"
        if round(some[0]) != round(some[1])
        else f"{some[0]:,.0f}"
    )


def minutes(
    endpoint: Endpoint, requests: Range, sent: Range, choices: int, ledger: Ledger | None
) -> str:
    """How long the requests take at the endpoint's limits, and at the speed of its last replies."""
    if endpoint.batch_api:
        return "a day a batch at most"
    price = price_of(endpoint)
    measured = ledger and ledger.seconds(endpoint.base_url, endpoint.model)
    seconds = (measured, measured) if measured else (0, 0) if price == (0, 0) else REPLY_SECONDS
    counted = [
        s + r * choices * endpoint.max_tokens for s, r in zip(sent, requests, strict=True)
    ]  # as rate limits count
    waits = [(r * s / endpoint.concurrency / 60 for r, s in zip(requests, seconds, strict=True))]
    waits += (
        [(r / endpoint.requests_per_minute for r in requests)]
        if endpoint.requests_per_minute
        else []
    )
    waits += (
        [(t / endpoint.tokens_per_minute for t in counted)] if endpoint.tokens_per_minute else []
    )
    low, high = (max(some) for some in zip(*waits, strict=True))
    return shown((low, high)) if high or not any(requests) else "unknown"


def row(
    stage: str,
    what: str,
    endpoint: Endpoint,
    requests: Range,
    tokens_in: Range,
    tokens_out: Range,
    *,
    choices: int = 1,
    stored: int = 0,
    ledger: Ledger | None = None,
) -> dict:
    """One line of the plan. `requests` and tokens are of all requests; those `stored` are taken off, tokens in proportion."""
    left = tuple(max(0.0, r - stored) for r in requests)
    tokens_in, tokens_out = (
        tuple(t * x / r if r else 0.0 for t, x, r in zip(some, left, requests, strict=True))
        for some in (tokens_in, tokens_out)
    )
    price = price_of(endpoint)
    dollars = [price and cost(pair, price) for pair in zip(tokens_in, tokens_out, strict=True)]
    ranges = {"requests": left, "input tokens": tokens_in, "output tokens": tokens_out}
    line = {
        "stage": stage,
        "what": what,
        "model": endpoint.model,
        "stored": stored,
        **{name: shown(r) for name, r in ranges.items()},
    }
    return {
        **line,
        "minutes": minutes(endpoint, left, tokens_in, choices, ledger),
        "low": dollars[0],
        "high": dollars[1],
    }


def conversation(turns: list[float], answer: float) -> float:
    """Input tokens of a conversation: each turn is sent with all that was said before."""
    return sum(sum(turns[: i + 1]) + i * answer for i in range(len(turns)))


def stored_texts(p: Generate, kind: str, ledger: Ledger) -> tuple[int, int]:
    """How many of the requests to teacher and judge that `corpus` makes for a kind of texts the ledger holds; re-asks do not count."""
    pack, held, times = p.pack(), {"teacher": 0, "judge": 0}, {}

    def look(name: str, endpoint: Endpoint, requests: list[Request]) -> list[Reply | None]:
        replies = []
        for request in requests:
            outcome = Outcome(request, endpoint, read=lambda _, reply: reply, re_asks=0)
            held[name] += (1 if endpoint.takes_n else request.n) - len(outcome.look(ledger))
            replies.append(outcome.first)
        return replies

    queries = p.queries(kind, corpus.avoided(p))
    queries = islice(queries, round(p.texts[kind] * p.queries_per_text))
    while some := list(islice(queries, max(256, p.teacher.concurrency))):
        replicates, before = [], held["teacher"]
        for query in some:
            replicates.append(times.get(query.identity, 0))
            times[query.identity] = replicates[-1] + 1
        talks = converse(
            lambda requests: look("teacher", p.teacher, requests),
            some,
            replicates,
            pack,
            turns=len(pack.generation),
        )
        graded = {
            grading_turn(q, talk.text, pack) for q, talk in zip(some, talks, strict=True) if talk
        }
        look(
            "judge",
            p.judge,
            [Request([{"role": "user", "content": turn}], n=p.filter_gradings) for turn in graded],
        )
        if held["teacher"] == before:  # asked in this order: nothing further on is there
            break
    return held["teacher"], held["judge"]


def plan_generate(p: Generate, ledger: Ledger | None = None) -> pd.DataFrame:
    """What the teacher and the filter's judge are asked; with a ledger, what of it is missing."""
    rows, pool = [], p.pools()["I"]
    for k, n in p.texts.items():
        turns, grading = mean_prompts(p, pool, sum(counts_of(k)))
        written, judged = stored_texts(p, k, ledger) if ledger and not p.corpus else (0, 0)
        claimed = p.corpus and p.corpus_grades == "claimed"
        queries = [0.0 if claimed else n / share for share in KEPT]
        asked = tuple(q * len(turns) for q in queries)
        sent = tuple(
            q * conversation(turns, a) for q, a in zip(queries, ANSWER_TOKENS, strict=True)
        )
        back = tuple(q * len(turns) * a for q, a in zip(queries, ANSWER_TOKENS, strict=True))
        teacher = row(
            "01_generate",
            f"teacher, k = {k}: {n:,} texts",
            p.teacher,
            asked,
            sent,
            back,
            stored=written,
            ledger=ledger,
        )
        rows += [] if p.corpus else [teacher]
        calls, choices = (1, p.filter_gradings) if p.judge.takes_n else (p.filter_gradings, 1)
        graded = tuple(
            q * p.filter_gradings * t for q, t in zip(queries, GRADE_TOKENS, strict=True)
        )
        requests = tuple(q * calls for q in queries)
        more = {"choices": choices, "stored": judged, "ledger": ledger}
        rows.append(
            row(
                "01_generate",
                f"judge, k = {k}",
                p.judge,
                requests,
                tuple(r * grading for r in requests),
                graded,
                **more,
            )
        )
    return pd.DataFrame(rows)


def plan_grade(
    p: Grade,
    models: int = 1,
    *,
    judges: dict[str, Endpoint] | None = None,
    ledger: Ledger | None = None,
) -> pd.DataFrame:
    """What the judges are asked for `models` models; `judges` are those that grade, or others by name."""
    rows, pools = [], p.pools()
    for (name, judge), setting in itertools.product(
        (p.judges() if judges is None else judges).items(), p.settings
    ):
        calls, choices = (1, p.gradings) if judge.takes_n else (p.gradings, 1)
        answers = requests = sent = 0.0
        for k in p.evaluation_ks:
            _, grading = mean_prompts(p, pools[setting], k)
            n = min(p.evaluation_queries, pools[setting].distinct(k)) * p.generations * models
            answers, requests, sent = answers + n, requests + n * calls, sent + n * calls * grading
        back = tuple(answers * p.gradings * t for t in GRADE_TOKENS)
        what = f"{called(name)}, setting {setting}: {answers:,.0f} answers of {models} models x {p.gradings} gradings"
        rows.append(
            row(
                "03_grade",
                what,
                judge,
                (requests, requests),
                (sent, sent),
                back,
                choices=choices,
                ledger=ledger,
            )
        )
    return pd.DataFrame(rows)


def called(judge: str) -> str:
    return "judge" if judge == FIRST_JUDGE else f"judge {judge}"


def plan_gradings(
    p: Grade, tasks: Sequence, answers: Sequence[Conversation], ledger: Ledger
) -> pd.DataFrame:
    """What the judges are asked for a student's answers to the tasks (`evaluate.answers`, `evaluate.tasks`), request by request."""
    pack, rows = p.pack(), []
    turns = [
        grading_turn(task.query, talk.text, pack) for task, talk in zip(tasks, answers, strict=True)
    ]
    for (name, judge), setting in itertools.product(p.judges().items(), p.settings):
        calls, choices = (1, p.gradings) if judge.takes_n else (p.gradings, 1)
        different = dict.fromkeys(
            turn for turn, task in zip(turns, tasks, strict=True) if task.setting == setting
        )
        requests = [Request([{"role": "user", "content": t}], n=p.gradings) for t in different]
        missing = [
            a for request in requests for a in Outcome(request, judge, re_asks=0).look(ledger)
        ]
        sent = sum(tokens(m["content"]) for a in missing for m in a.body["messages"])
        back = tuple(len(missing) * choices * t for t in GRADE_TOKENS)
        what = f"{called(name)}, setting {setting}: {len(different):,} different answers x {p.gradings} gradings"
        line = row(
            "03_grade",
            what,
            judge,
            (len(missing),) * 2,
            (sent, sent),
            back,
            choices=choices,
            ledger=ledger,
        )
        rows.append({**line, "stored": len(different) * calls - len(missing)})
    return pd.DataFrame(rows)


def plan_finetune(p: Finetune) -> str:
    """What one training does, in a line."""
    texts = sum(p.mix.values())
    passes = p.steps * p.batch / texts
    length = (
        f"at most {p.chat_tokens} tokens each, at most {p.steps * p.batch * p.chat_tokens:,} in all"
    )
    return f"{p.variant}: {p.student}, {p.steps:,} steps of {p.batch} texts ({passes:.1f} passes over {texts:,} texts), {length}; {p.topology}"


def is_done(profile: str, name: str, p: Model) -> bool:
    """Has this notebook run to its end with these parameters? What it read may have changed since: make looks at that."""
    executed, given = (
        paths.run(profile) / f"{name}.ipynb",
        paths.run(profile) / f"params/{name}.yaml",
    )
    if (
        not (executed.exists() and given.exists())
        or executed.stat().st_mtime < given.stat().st_mtime
    ):
        return False
    return yaml.safe_load(given.read_text()) == p.model_dump(mode="json")


def main(profile: str) -> None:
    """Print the plan of what is left of every stage."""
    notebooks = load_profile(profile)
    path, grades = (
        paths.ledger(profile),
        [p for name, p in notebooks.items() if name.startswith("03")],
    )
    ledger = Ledger(path) if path.exists() else None
    done = {name for name, p in notebooks.items() if is_done(profile, name, p)}
    left = sum(name.startswith("03") and name not in done for name in notebooks)
    parts = [] if "01_generate" in done else [plan_generate(notebooks["01_generate"], ledger)]
    parts += [plan_grade(grades[0], left, ledger=ledger)] if left else []
    if done:
        print(
            f"Done, and not counted below: {len(done)} of {len(notebooks)} notebooks (runs/{profile}/).\n"
        )
    if not parts:
        print("Nothing is left to ask.")
        return
    table = pd.concat(parts)
    print(
        f"Profile {profile}: what it asks, trains and costs. Tokens are characters / {CHARACTERS_PER_TOKEN}. Assumed are answers of"
        f" {ANSWER_TOKENS[0]} to {ANSWER_TOKENS[1]} tokens,\ngradings of {GRADE_TOKENS[0]} to {GRADE_TOKENS[1]},"
        f" {KEPT[0]:.0%} to {KEPT[1]:.0%} of the teacher's texts kept,"
        f" and {REPLY_SECONDS[0]} to {REPLY_SECONDS[1]} s a reply until some have been measured.\n"
    )
    dollars = zip(table.low, table.high, strict=True)
    cells = [
        f"{low:,.2f} to {high:,.2f}" if pd.notna(low) else "price unknown" for low, high in dollars
    ]
    print(
        table.drop(columns=["low", "high"]).assign(**{"US dollars": cells}).to_string(index=False)
    )
    print(
        f"\nTogether {table.low.sum():,.2f} to {table.high.sum():,.2f} US dollars (params/prices.yaml)",
        end="",
    )
    unknown = sorted(table.model[table.low.isna()].unique())
    print(
        f", without {', '.join(unknown)}, whose price that file does not have." if unknown else "."
    )
    for name, judge in grades[0].second_judges.items():
        if not judge.enabled:
            more = plan_grade(grades[0], len(grades), judges={name: judge})
            price = (
                f"{more.low.sum():,.2f} to {more.high.sum():,.2f} US dollars more"
                if more.low.notna().all()
                else "price unknown"
            )
            print(f"Not asked (enabled: false): second judge {name}, {judge.model}: {price}.")
    if ledger:
        print(
            f"{ledger.spent():,.2f} are spent (make ledger). A model's gradings are counted whole until all are there: 03_grade shows more."
        )
    limit = notebooks["01_generate"].budget
    print(
        f"The budget for everything is {limit:,.2f} US dollars."
        if limit is not None
        else "There is no budget: spending is not limited."
    )
    print("\n02_finetune")
    print(
        "\n".join(
            "  " + plan_finetune(p)
            for name, p in notebooks.items()
            if name.startswith("02") and name not in done
        )
    )
    p, pools = grades[0], grades[0].pools()
    queries = sum(
        min(p.evaluation_queries, pools[s].distinct(k)) for s in p.settings for k in p.evaluation_ks
    )
    answers = queries * p.generations * left
    where = p.serve or p.server.base_url or "this process"
    print(
        f"\n03_grade\n  {answers:,} answers of {left} models, at most {p.new_tokens} tokens each, sampled by {where}"
    )


if __name__ == "__main__":
    command(main)
