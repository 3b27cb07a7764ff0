"""A whole profile's plan, printed: `python -m helpers.run.overview paper`, which is `make plan`."""

import pandas as pd
import yaml

from helpers import paths
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.money import CHARACTERS_PER_TOKEN, is_free
from helpers.errors import command
from helpers.profile.load import load_profile
from helpers.profile.schema import Grade, Model
from helpers.profile.together import feasibility
from helpers.run import plan


def is_done(profile: str, name: str, p: Model) -> bool:
    """Has this notebook run to its end with these parameters?

    What else it read may have changed since; make looks at that.
    """
    executed = paths.run(profile) / f"{name}.ipynb"
    given = paths.run(profile) / f"params/{name}.yaml"
    if not executed.exists() or not given.exists():
        return False
    newer = executed.stat().st_mtime >= given.stat().st_mtime
    return newer and yaml.safe_load(given.read_text()) == p.model_dump(mode="json")


def assumptions() -> str:
    well, badly = plan.KEPT
    return (
        f"Tokens are characters / {CHARACTERS_PER_TOKEN}. Assumed are answers of"
        f" {plan.shown(*plan.ANSWER_TOKENS)} tokens,\ngradings of"
        f" {plan.shown(*plan.GRADE_TOKENS)}, and {well:.0%} to {badly:.0%} of the teacher's texts"
        " kept; minutes are guessed until replies have been measured."
    )


def totals(table: pd.DataFrame) -> str:
    """Minutes and dollars of all rows together; teacher, judge and models are asked in turn."""
    total = plan.ranges(table.sum(numeric_only=True).to_frame().T).iloc[0]
    line = f"{total.minutes} minutes of asking, {total.dollars} US dollars (params/prices.yaml)"
    if table["minutes low"].isna().any():
        line += ", without the time of batches, which take up to a day each"
    unpriced = sorted(set(table.model[table["dollars low"].isna()]))
    if unpriced:
        line += f", without {', '.join(unpriced)}, whose price that file does not have"
    return f"Together {line}."


def budget(p: Grade, endpoints: list[Endpoint]) -> str:
    if p.budget is not None:
        return f"The budget for everything is {p.budget:,.2f} US dollars."
    if all(map(is_free, endpoints)):
        return "All that is asked is free."
    return "There is no budget: spending is not limited."


def trainings(notebooks: dict[str, Model]) -> list[str]:
    """What each training does; those that differ in the seed alone share a line."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for p in notebooks.values():
        mix, _, seed = p.variant.rpartition("-s")
        seeds.setdefault((mix, plan.training(p)), []).append(seed)
    return [f"{mix}, seeds {', '.join(own)}: {what}" for (mix, what), own in seeds.items()]


def main(profile: str) -> None:
    """Print the plan of what is left of every stage."""
    notebooks = load_profile(profile)
    left = {name: p for name, p in notebooks.items() if not is_done(profile, name, p)}
    generate = notebooks.get("01_generate")
    grades = [p for p in notebooks.values() if isinstance(p, Grade)]
    grade = grades[0]
    addressed = [p.student for p in grades if isinstance(p.student, Endpoint)]
    models = sum(name.startswith("03") for name in left)
    path = paths.ledger(profile)
    ledger = Ledger(path) if path.exists() else None
    parts = []
    if "01_generate" in left:
        parts.append(plan.plan_generate(generate, ledger))
    for p in left.values():
        if isinstance(p, Grade) and isinstance(p.student, Endpoint):
            parts.append(plan.plan_answers(p, ledger))
    if models:
        parts.append(plan.plan_grade(grade, models, ledger=ledger))
    if len(left) < len(notebooks):
        done = len(notebooks) - len(left)
        print(
            f"Done, and not counted below: {done} of {len(notebooks)} notebooks"
            f" (runs/{profile}/).\n"
        )
    if not parts:
        print("Nothing is left to ask.")
        return
    table = pd.concat(parts)
    print(f"Profile {profile}: what it asks, trains and costs. {assumptions()}\n")
    print(plan.ranges(table).to_string(index=False))
    print(f"\n{totals(table)}")
    for name, judge in grade.second_judges.items():
        if not judge.enabled:
            more = plan.plan_grade(grade, len(grades), judges={name: judge})
            sums = more.sum(numeric_only=True, skipna=False).to_frame().T
            price = plan.ranges(sums).dollars[0]
            print(
                f"Not asked (enabled: false): second judge {name}, {judge.model}:"
                f" {price} US dollars more."
            )
    if ledger:
        print(
            f"{ledger.spent():,.2f} US dollars are spent (make ledger). A model's answers and"
            " gradings are counted whole until all are there: 03_grade shows more."
        )
    teachers = [generate.teacher] if generate else []
    print(budget(grade, [*teachers, *addressed, *grade.judges().values()]))
    if generate:
        print(f"\nQueries\n{feasibility(generate).to_string(index=False)}")
    if untrained := {name: p for name, p in left.items() if name.startswith("02")}:
        print("\n02_finetune", *trainings(untrained), sep="\n  ")
    if len(addressed) < len(grades):
        where = grade.serve or grade.server.base_url or "this process"
        print(f"\n03_grade\n  answers of at most {grade.new_tokens} tokens, sampled by {where}")


if __name__ == "__main__":
    command(main)
