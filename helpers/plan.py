"""What a profile would ask, train and cost, before anything is spent: `python -m helpers.plan paper`.

Needs no key, no corpus and no model. Tokens are estimated from characters; the ranges are stated assumptions.
"""

import sys

import pandas as pd
import yaml

from helpers.catalog import Pool, draw
from helpers.chat import Endpoint
from helpers.errors import UserError
from helpers.params import Finetune, Generate, Grade, load_profile
from helpers.paths import ROOT
from helpers.prompts import generation_turns, grading_turn

CHARACTERS_PER_TOKEN = 4  # English text, a rule of thumb
ANSWER_TOKENS = (60, 400)  # a short text with its explanation: few words, or many and a model that reasons
GRADE_TOKENS = (120, 900)  # a table of k + 3 rows with an explanation, likewise
KEPT = (0.9, 0.3)  # share of the teacher's texts with full marks, from well to badly
SAMPLE = 200  # queries that the mean prompt length is taken from


def tokens(text: str) -> float:
    return len(text) / CHARACTERS_PER_TOKEN


def prices() -> dict[str, list[float]]:
    """US dollars per million input and output tokens, by model."""
    return yaml.safe_load((ROOT / "params/prices.yaml").read_text())


def mean_prompts(p: Generate | Grade, pool: Pool, k: int) -> tuple[list[float], float]:
    """Mean tokens of each generation turn and of the grading turn (an answer of `ANSWER_TOKENS[0]` in it)."""
    pack, queries = p.pack(), [q for q, _ in zip(draw(pool, k, seed=0, purpose="plan"), range(SAMPLE), strict=False)]
    turns = [sum(tokens(t) for t in column) / SAMPLE for column in zip(*(generation_turns(q, pack) for q in queries), strict=True)]
    answer = "x" * CHARACTERS_PER_TOKEN * ANSWER_TOKENS[0]
    return turns, sum(tokens(grading_turn(q, answer, pack)) for q in queries) / SAMPLE


def row(stage: str, what: str, endpoint: Endpoint, requests: tuple, tokens_in: tuple, tokens_out: tuple) -> dict:
    """One line of the plan; each quantity a (low, high) range."""
    price = prices().get(endpoint.model)
    cost = [None, None] if price is None else [(i * price[0] + o * price[1]) / 1e6 for i, o in zip(tokens_in, tokens_out, strict=True)]
    ranges = {"requests": requests, "input tokens": tokens_in, "output tokens": tokens_out}
    shown = {name: f"{low:,.0f} to {high:,.0f}" if round(low) != round(high) else f"{low:,.0f}" for name, (low, high) in ranges.items()}
    return {"stage": stage, "what": what, "model": endpoint.model, **shown, "low": cost[0], "high": cost[1]}


def conversation(turns: list[float], answer: float) -> float:
    """Input tokens of a conversation: each turn is sent with all that was said before."""
    return sum(sum(turns[: i + 1]) + i * answer for i in range(len(turns)))


def plan_generate(p: Generate) -> pd.DataFrame:
    """What the teacher and the filter's judge are asked."""
    rows, pool = [], p.pools()["I"]
    for k, n in p.texts.items():
        turns, grading = mean_prompts(p, pool, int(k))
        queries = [n / share for share in KEPT]
        asked = tuple(q * len(turns) for q in queries)
        sent = tuple(q * conversation(turns, a) for q, a in zip(queries, ANSWER_TOKENS, strict=True))
        back = tuple(q * len(turns) * a for q, a in zip(queries, ANSWER_TOKENS, strict=True))
        rows.append(row("01_generate", f"teacher, k = {k}: {n:,} texts", p.teacher, asked, sent, back))
        calls = 1 if p.judge.takes_n else p.filter_gradings
        graded = tuple(q * p.filter_gradings * t for q, t in zip(queries, GRADE_TOKENS, strict=True))
        requests = tuple(q * calls for q in queries)
        rows.append(row("01_generate", f"judge, k = {k}", p.judge, requests, tuple(r * grading for r in requests), graded))
    return pd.DataFrame(rows)


def plan_grade(p: Grade, models: int = 1) -> pd.DataFrame:
    """What the judge is asked for `models` models."""
    rows, pools = [], p.pools()
    for setting in p.settings:
        answers = requests = sent = 0.0
        for k in p.evaluation_ks:
            _, grading = mean_prompts(p, pools[setting], k)
            n = min(p.evaluation_queries, pools[setting].distinct(k)) * p.generations * models
            calls = n * (1 if p.judge.takes_n else p.gradings)
            answers, requests, sent = answers + n, requests + calls, sent + calls * grading
        back = tuple(answers * p.gradings * t for t in GRADE_TOKENS)
        what = f"judge, setting {setting}: {answers:,.0f} answers of {models} models x {p.gradings} gradings"
        rows.append(row("03_grade", what, p.judge, (requests, requests), (sent, sent), back))
    return pd.DataFrame(rows)


def plan_finetune(p: Finetune) -> str:
    """What one training does, in a line."""
    texts = sum(p.mix.values())
    passes = p.steps * p.batch / texts
    length = f"at most {p.max_tokens} tokens each, at most {p.steps * p.batch * p.max_tokens:,} in all"
    return (
        f"{p.variant}: {p.student}, {p.steps:,} steps of {p.batch} texts ({passes:.1f} passes over {texts:,} texts), {length}; {p.topology}"
    )


def main(profile: str) -> None:
    """Print the plan of every stage."""
    notebooks = load_profile(profile)
    grades = [p for name, p in notebooks.items() if name.startswith("03")]
    table = pd.concat([plan_generate(notebooks["01_generate"]), plan_grade(grades[0], len(grades))])
    print(
        f"Profile {profile}: what it asks, trains and costs. Tokens are characters / {CHARACTERS_PER_TOKEN}. Assumed are answers of"
        f" {ANSWER_TOKENS[0]} to {ANSWER_TOKENS[1]} tokens,\ngradings of {GRADE_TOKENS[0]} to {GRADE_TOKENS[1]},"
        f" and {KEPT[0]:.0%} to {KEPT[1]:.0%} of the teacher's texts kept.\n"
    )
    dollars = zip(table.low, table.high, strict=True)
    shown = [f"{low:,.2f} to {high:,.2f}" if pd.notna(low) else "price unknown" for low, high in dollars]
    print(table.drop(columns=["low", "high"]).assign(**{"US dollars": shown}).to_string(index=False))
    print(f"\nTogether {table.low.sum():,.2f} to {table.high.sum():,.2f} US dollars (params/prices.yaml)", end="")
    unknown = sorted(table.model[table.low.isna()].unique())
    print(f", without {', '.join(unknown)}, whose price that file does not have." if unknown else ".")
    print("\n02_finetune")
    print("\n".join("  " + plan_finetune(p) for name, p in notebooks.items() if name.startswith("02")))
    p, pools = grades[0], grades[0].pools()
    queries = sum(min(p.evaluation_queries, pools[s].distinct(k)) for s in p.settings for k in p.evaluation_ks)
    answers = queries * p.generations * len(grades)
    where = p.serve or p.server.base_url or "this process"
    print(f"\n03_grade\n  {answers:,} answers of {len(grades)} models, at most {p.new_tokens} tokens each, sampled by {where}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
