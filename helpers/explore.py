"""What `explore.ipynb` shows of a run: answers and texts as tables, and pages of single ones."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from helpers import answer_page, evaluate, paths, text_tables
from helpers.chat.ledger import Ledger
from helpers.errors import UserError
from helpers.files import read_json_lines
from helpers.profile.load import load_profile
from helpers.profile.schema import Answers
from helpers.results.leaks import NEAR
from helpers.task.catalog import Query, load_skills
from helpers.task.points import KEPT
from helpers.task.prompts import generation_turns, grading_turn

QUERY = ["setting", "k", "query"]


class Run:
    """A profile, what its run has made so far, and the models to begin with.

    Raises:
        UserError: no list of models, or one that the profile does not have.
    """

    def __init__(self, profile: str, models: Sequence[str]):
        self.profile = profile
        self.chosen = models
        parameters = load_profile(profile)
        self.models = {  # what 03_grade knows of each model, by variant
            name.removeprefix("03_grade/"): p
            for name, p in parameters.items()
            if name.startswith("03_grade/")
        }
        self.check_models(models)
        self.p = next(iter(self.models.values()))  # for what all models share
        if written := parameters.get("01_generate"):  # whose texts are graded as answers are
            grading = {"judge": written.judge, "gradings": written.filter_gradings}
            self.filter = self.p.model_copy(update={**grading, "second_judges": {}, "mix": {}})

    def check_models(self, models: Sequence[str]) -> None:
        """Check that they are a list of one or more of the profile's models.

        Raises:
            UserError: they are not; it names those that there are.
        """
        if isinstance(models, str) or not models or not set(models) <= set(self.models):
            raise UserError(
                f"models={models!r}: a list of one or more is needed, of {', '.join(self.models)}"
            )

    def check_askable(self, models: Sequence[str]) -> None:
        """Check that each can be asked more than it was.

        Raises:
            UserError: one is a file of answers.
        """
        for model in models:
            if isinstance(self.models[model].student, Answers):
                raise UserError(
                    f"{model} is a file of answers, which nobody can ask; choose another model"
                )

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(paths.ledger(self.profile))

    @cached_property
    def answers(self) -> pd.DataFrame:
        """Every graded answer.

        Columns: those of `evaluate.graded_answers`; `disagree`: `judges` where their majorities
        differ, `gradings` where those of one judge do; `near`: whether it is a near-duplicate of a
        text that the model trained on.

        Raises:
            UserError: nothing was graded yet.
        """
        table = evaluate.graded_answers(self.profile)
        table["disagree"] = table.grades.map(disagreement)
        table["near"] = np.where(table.nearest >= NEAR, "yes", "no")
        return table

    @cached_property
    def corpus(self) -> pd.DataFrame:
        """Every text that was written for training.

        Columns: what 01_generate writes of a text, those of `text_tables.outcome`, and `outcome`:
        kept, or why not.

        Raises:
            UserError: no text was written yet.
        """
        records = read_json_lines(paths.corpus(self.profile), "01_generate")
        texts = text_tables.with_points(pd.DataFrame(records))
        return texts.assign(outcome=texts.dropped.replace("", KEPT))

    def query_of(self, row: dict, skills: str = "") -> Query:
        """The query of a row, whose skills are in the run's catalog, or in another CSV.

        Raises:
            UserError: a skill that is not there, a repeated one, no list of one or more.
        """
        file = paths.ROOT / (skills or self.p.skills)
        known = {skill.name: skill for skill in load_skills(file)}
        names = row["skills"]
        if isinstance(names, str) or not names or len(set(names)) < len(names):
            raise UserError(f"skills {names!r}: a list of one or more is needed, each but once")
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"{file}: no skill {', '.join(unknown)}; it has {', '.join(known)}")
        shown = tuple(known[name] for name in names)
        return Query(row["topic"], shown, tuple(row.get("things", ())))

    def compared(self, first: str, second: str, metric: str) -> pd.DataFrame:
        """Two models query by query, where they differ most first.

        Columns: setting, k, query, topic, skills, first and second (each model's mean of the metric
        over its answers), and the difference, second - first.
        """
        scores = self.answers.pivot_table(index=QUERY, columns="variant", values=metric)
        scores = scores.reindex(columns=[first, second]).dropna().round(2)
        scores.columns = ["first", "second"]
        scores["difference"] = scores.second - scores["first"]
        queries = self.answers.groupby(QUERY)[["topic", "skills"]].first()
        table = queries.join(scores, how="inner").reset_index()
        return table.sort_values("difference", key=abs, ascending=False, kind="stable")

    def query_page(self, query: dict, models: Sequence[str]) -> str:
        """Every answer of the models to a query of `compared`, side by side."""
        same = self.answers.groupby(QUERY).get_group(tuple(query[name] for name in QUERY))
        return text_tables.PAGES.side_by_side(
            {model: same[same.variant == model].to_dict("records") for model in models}
        )

    def page(self, row: dict) -> str:
        """One row of `answers` or `corpus` in full."""
        p = self.models[row["variant"]] if "variant" in row else self.filter
        return answer_page.in_full(p, self.query_of(row), row, self.ledger)

    def ask(self, query: Query, models: Sequence[str], samples: int) -> text_tables.Page:
        """Ask models a query: a page of what they and the judge are asked, and the graded answers.

        Answers are stored in `runs/explore`. Without samples nobody is asked.

        Raises:
            UserError: no skill, models or number of samples that can be asked, a model that is not
                trained yet, or what student or judge cannot do.
        """
        if not query.topic or not query.skills:
            raise UserError("a topic and one or more skills are needed")
        if not isinstance(samples, int) or samples < 0:
            raise UserError(f"samples={samples!r}: a whole number is needed, 0 or more")
        if samples:
            self.check_models(models)
            self.check_askable(models)
        tasks = [evaluate.Task("", query.k, 0, sample, query) for sample in range(samples)]
        columns = {}
        for model in models if samples else ():
            p = self.models[model]
            ledger = Ledger(paths.ledger("explore"), budget=p.budget)
            with evaluate.student(p, ledger) as student:
                conversations = evaluate.answers(p, tasks, student)
            records = evaluate.evaluate(p, tasks, conversations, ledger)
            columns[model] = text_tables.answers(records).to_dict("records")
        pack = self.p.pack()
        turns = generation_turns(query, pack)[: self.p.student_turns]
        prompts = text_tables.PAGES.prompts(turns, grading_turn(query, "(the answer)", pack))
        return text_tables.Page(prompts + text_tables.PAGES.side_by_side(columns))


def disagreement(grades: dict[str, dict]) -> str:
    """`judges`, `gradings` (of one judge), or `none`."""
    majorities = {str(judge["points"]) for judge in grades.values() if judge["points"]}
    if len(majorities) > 1:
        return "judges"
    differ = (len(set(map(str, judge["gradings"]))) > 1 for judge in grades.values())
    return "gradings" if any(differ) else "none"
