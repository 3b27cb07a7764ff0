"""Prints a whole profile's plan: `python -m helpers.run.profile_plan paper`, or `make plan`."""

from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import yaml

from helpers import evaluate, paths
from helpers.chat.conversation import Conversation
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.money import CHARACTERS_PER_TOKEN
from helpers.errors import command
from helpers.profile.consistency import feasibility
from helpers.profile.load import load_profile
from helpers.profile.parameters import Parameters
from helpers.profile.schema import Finetune, Grade
from helpers.run import plan

ASSUMED = f"""\
Tokens are characters / {CHARACTERS_PER_TOKEN}. Assumed are answers of \
{plan.shown(*plan.ANSWER_TOKENS)} tokens, gradings of {plan.shown(*plan.GRADE_TOKENS)},
and {plan.KEPT[0]:.0%} to {plan.KEPT[1]:.0%} of the teacher's texts kept; minutes are guessed\
 until replies have been measured.
"""


def left_of(profile: str, notebooks: dict[str, Parameters]) -> dict[str, Parameters]:
    """The notebooks that have not run to their end with these parameters.

    Whether files that they read have changed since is not looked at here: make does that.
    """
    left = dict(notebooks)
    for name, p in notebooks.items():
        executed = paths.run(profile) / f"{name}.ipynb"
        given = paths.run(profile) / f"params/{name}.yaml"
        if not executed.exists() or not given.exists():
            continue
        is_newer = executed.stat().st_mtime >= given.stat().st_mtime
        if is_newer and yaml.safe_load(given.read_text()) == p.model_dump(mode="json"):
            del left[name]
    return left


def plan_answers(p: Grade, ledger: Ledger | None = None) -> pd.DataFrame:
    """What a model with an address of its own is asked, as if it had not answered anything yet."""
    queries = [task.query for task in evaluate.tasks(p)]
    line = plan.row(
        "03_grade",
        f"model {p.variant}: {len(queries):,} answers",
        p.student,
        len(queries) * p.student_turns,
        plan.sent_in_turns(queries, p.pack(), p.student_turns),
        plan.ANSWER_TOKENS,
        ledger=ledger,
    )
    return pd.DataFrame([line])


def plan_grade(p: Grade, **settings) -> pd.DataFrame:
    """What the judges are asked for models that have not answered anything yet.

    Args:
        settings: those of `plan.plan_gradings`.
    """
    tasks = evaluate.tasks(p)
    answers = []
    for task in tasks:
        text = f"{plan.ANSWER}{task.generation}"  # no two are alike
        answers.append(Conversation([{"role": "assistant", "content": text}]))
    return plan.plan_gradings(p, tasks, answers, **settings)


def totals(table: pd.DataFrame, budget: float | None) -> str:
    """Minutes and dollars of all rows together; teacher, judge and models are asked in turn."""
    minutes, dollars = (np.nansum(list(table[name]), axis=0) for name in ("minutes", "dollars"))
    limit = "no budget: spending is not limited" if budget is None else f"budget {budget:,.2f}"
    if not np.any(list(table.dollars)):  # an unknown price is NaN, which is not zero
        limit = "all that is asked is free"
    return (
        f"Together {plan.shown(*minutes)} minutes of asking, {plan.shown(*dollars, 2)} US dollars"
        f" (params/prices.yaml), without what is not known; {limit}."
    )


def main(profile: str) -> None:
    """Print the plan of what is left; a model's answers and gradings are counted whole."""
    notebooks = load_profile(profile)
    left = left_of(profile, notebooks)
    path = paths.ledger(profile)
    ledger = Ledger(path) if path.exists() else None
    print(f"Profile {profile}: {len(left)} of {len(notebooks)} notebooks are left to run.")
    grades = [p for p in left.values() if isinstance(p, Grade)]
    parts = [plan_answers(p, ledger) for p in grades if isinstance(p.student, Endpoint)]
    if "01_generate" in left:
        parts.insert(0, plan.plan_generate(left["01_generate"], ledger))
    alike = defaultdict(list)  # models graded alike: a sweep may have its own settings and judges
    for p in grades:
        alike[tuple(p.settings), tuple(p.second_judges)].append(p)
    for same in alike.values():
        parts.append(plan_grade(same[0], models=len(same), ledger=ledger))
    if not parts:
        print("Nothing is left to ask.")
        return
    table = pd.concat(parts)
    rows = plan.ranges(table).to_string(index=False)
    p = next(p for p in notebooks.values() if isinstance(p, Grade))
    print(f"\n{ASSUMED}\n{rows}\n{totals(table, p.budget)}")
    if ledger:
        print(f"{ledger.spent():,.2f} US dollars are spent (make ledger).")
    for name, judge in p.second_judges.items():
        if not judge.enabled:
            models = sum(name in other.second_judges for other in grades)
            price = plan.ranges(plan_grade(p, models=models, judges={name: judge})).dollars[0]
            print(f"Not asked: second judge {name}, {judge.model}: {price} US dollars more.")
    if "01_generate" in left:
        print(f"\nQueries\n{feasibility(left['01_generate']).to_string(index=False)}")
    trainings = Counter(plan.plan_finetune(p) for p in left.values() if isinstance(p, Finetune))
    if trainings:
        print("\n02_finetune", *(f"{n} x {what}" for what, n in trainings.items()), sep="\n  ")
    where = p.serve or p.server.base_url or "this process"
    print(f"\n03_grade\n  answers of at most {p.new_tokens} tokens, sampled by {where}")


if __name__ == "__main__":
    command(main)
