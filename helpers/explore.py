"""What `explore.ipynb` shows of a run: its answers and texts as tables, and pages of single ones.

Pages are HTML in which everything that a model wrote is escaped.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from rapidfuzz import fuzz, process

from helpers import evaluate, paths
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Outcome, Reply, Request, Unreadable
from helpers.errors import UserError
from helpers.files import read_json_lines
from helpers.judge.grade import grading_request, read_reply
from helpers.mark import marked
from helpers.profile.load import load_profile
from helpers.profile.schema import Grade, Model
from helpers.results.leaks import NEAR
from helpers.results.scores import METRICS, OTHERS
from helpers.task.catalog import Query, Skill, load_skills
from helpers.task.points import FIRST_JUDGE, KEPT, Points, Rules
from helpers.task.prompts import Pack, criteria, generation_turns, grading_turn

FULL = "full marks"
QUERY = ["setting", "k", "query"]
# What a page of one answer or text needs to look the same in light and dark themes.
STYLE = "white-space:pre-wrap;overflow-wrap:anywhere;border-left:3px solid #8888;padding-left:8px"


@dataclass(frozen=True)
class Run:
    """A profile, and what its run has made so far."""

    profile: str
    parameters: dict[str, Model]  # of every notebook, by name

    @classmethod
    def of(cls, profile: str) -> "Run":
        return cls(profile, load_profile(profile))

    @property
    def models(self) -> dict[str, Grade]:
        """What 03_grade knows of each model, by variant."""
        return {
            name.partition("/")[2]: values
            for name, values in self.parameters.items()
            if name.startswith("03_grade/")
        }

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(paths.ledger(self.profile))

    @cached_property
    def catalog(self) -> dict[str, Skill]:
        return {s.name: s for s in load_skills(paths.ROOT / self.parameters["01_generate"].skills)}

    @cached_property
    def answers(self) -> pd.DataFrame:
        """Every graded answer.

        Columns: model (a variant), what 03_grade writes of an answer, and those of `judged`, by the
        first judge; `disagree`: `judges` where their majorities differ, `gradings` where those of
        one judge do; `near`: whether it is a near-duplicate of a text that the model trained on.

        Raises:
            UserError: nothing was graded yet.
        """
        rows = []
        for variant in self.models:
            file = paths.grades(self.profile, variant)
            records = read_json_lines(file, "03_grade") if file.exists() else []
            rows += [answer_row(variant, record) for record in records]
        if not rows:
            raise self.missing("graded answers")
        return pd.DataFrame(rows)

    @cached_property
    def corpus(self) -> pd.DataFrame:
        """Every text that was written for training.

        Columns: what 01_generate writes of a text, those of `judged`, and `outcome`: kept, or why
        not.
        """
        file = paths.corpus(self.profile)
        if not file.exists():
            raise self.missing("texts")
        rows = []
        for record in read_json_lines(file, "01_generate"):
            outcome = record["dropped"] or KEPT
            rows.append(record | judged(record["skills"], record["points"]) | {"outcome": outcome})
        return pd.DataFrame(rows)

    def missing(self, what: str) -> UserError:
        return UserError(
            f"{paths.run(self.profile)}: no {what} there yet;"
            f" make reproduce PROFILE={self.profile} makes them"
        )

    def query_of(self, record: dict) -> Query:
        skills = tuple(self.catalog[name] for name in record["skills"])
        return Query(record["topic"], skills, tuple(record.get("things", ())))

    def compared(self, one: str, other: str, metric: str) -> pd.DataFrame:
        """Two models query by query, where they differ most first.

        Columns: setting, k, query, topic, skills, each model's mean of the metric over its answers,
        and the difference, other - one.
        """
        answers = self.answers
        tables = []
        for variant in (one, other):
            own = answers[answers.model == variant]
            tables.append(own.groupby(QUERY)[metric].mean())
        scores = pd.concat(tables, axis=1, keys=[f"1: {one}", f"2: {other}"]).round(2)
        scores["difference"] = scores.iloc[:, 1] - scores.iloc[:, 0]
        queries = answers.drop_duplicates(QUERY)[[*QUERY, "topic", "skills"]]
        table = queries.merge(scores.dropna().reset_index(), on=QUERY)
        return table.sort_values("difference", key=np.abs, ascending=False, kind="stable")

    def query_page(self, query: dict, models: Sequence[str]) -> str:
        """Every answer of the models to a query of `compared`, side by side."""
        here = self.answers[(self.answers[QUERY] == [query[name] for name in QUERY]).all(axis=1)]
        columns = {}
        for variant in models:
            columns[variant] = here[here.model == variant].to_dict("records")
        return side_by_side(columns)

    def answer_page(self, answer: dict) -> str:
        """One row of `answers` in full."""
        p = self.models[answer["model"]]
        query = self.query_of(answer)
        title = "{model}, setting {setting}, k = {k}, query {query}, sample {generation}"
        parts = [heading(title.format(**answer)), block(prompts_of(query, p))]
        parts.append(verdict(answer))
        packs = p.packs()
        for name, judge in p.judges().items():
            replies = self.replies(query, answer["text"], packs[name], judge, p.gradings, p.rules())
            parts.append(judge_page(f"judge {name} ({judge.model})", replies, query, packs[name]))
        if answer["near"] == "yes":
            texts = evaluate.training_texts(p)
            nearest, similarity, _ = process.extractOne(answer["text"], texts, scorer=fuzz.ratio)
            parts.append(heading(f"The nearest training text, {similarity:.0f} of 100 alike"))
            parts.append(f"<p>{marked(nearest, answer['skills'])}</p>")
        return "".join(parts)

    def text_page(self, text: dict) -> str:
        """One row of `corpus` in full."""
        p = self.parameters["01_generate"]
        query = self.query_of(text)
        parts = [heading(f"{text['outcome']}: k = {text['k']}, {text['topic']}")]
        parts += [block(f"{m['role']}: {m['content']}") for m in text["messages"]]
        parts.append(verdict(text))
        pack = p.pack()
        replies = self.replies(query, text["text"], pack, p.judge, p.filter_gradings, p.rules())
        parts.append(judge_page(f"judge ({p.judge.model})", replies, query, pack))
        return "".join(parts)

    def replies(
        self, query: Query, text: str, pack: Pack, judge: Endpoint, gradings: int, rules: Rules
    ) -> list[tuple[str, Points | Unreadable]]:
        """A judge's stored replies about a text, each with what is read of it; nothing is asked."""
        replies = []

        def read(_: Request, reply: Reply) -> Points | Unreadable:
            result = read_reply(reply, query, text, pack, rules)
            replies.append((reply.text, result))
            return result

        request = grading_request(query, text, pack, gradings=gradings)
        Outcome(request, judge, read).look(self.ledger)
        return replies

    def ask(self, query: Query, models: Sequence[str], samples: int) -> str:
        """The models' answers to any query, graded, side by side; stored in `runs/explore`.

        Raises:
            UserError: a model that is not trained yet, or what student or judge cannot do.
        """
        columns = {}
        tasks = [evaluate.Task("", query.k, 0, sample, query) for sample in range(samples)]
        for variant in models:
            p = self.models[variant]
            ledger = Ledger(paths.ledger("explore"), budget=p.budget)
            with evaluate.student(p, ledger) as student:
                conversations = evaluate.answers(p, tasks, student)
            records = evaluate.evaluate(p, tasks, conversations, ledger)
            columns[variant] = [answer_row(variant, record) for record in records]
        return self.prompts(query) + side_by_side(columns)

    def prompts(self, query: Query) -> str:
        """What models and judge are asked."""
        p = next(iter(self.models.values()))
        pack = p.pack()
        turn = grading_turn(query, "(the answer)", pack)
        judge = f"<details><summary>what the judge is asked</summary>{block(turn)}</details>"
        return block(prompts_of(query, p)) + judge


def answer_row(variant: str, record: dict) -> dict:
    """A row of `Run.answers`, of what 03_grade writes of an answer."""
    points = record["grades"][FIRST_JUDGE]["points"]
    return {
        "model": variant,
        **record,
        **judged(record["skills"], points),
        "disagree": disagreement(record["grades"]),
        "near": "yes" if record["nearest"] >= NEAR else "no",
    }


def judged(skills: Sequence[str], points: Sequence[int] | None) -> dict:
    """What a judge's points come to.

    verdict (full marks, the fault, or unreadable), lost (the criteria without a point), and the
    metrics, NaN where no grading was readable.
    """
    if points is None:
        return {"verdict": "unreadable", "lost": []} | dict.fromkeys(METRICS, np.nan)
    names = (*skills, *OTHERS)
    lost = [name for name, point in zip(names, points, strict=True) if not point]
    result = Points.of(points)
    return {"verdict": result.fault() or FULL, "lost": lost} | result.metrics()


def disagreement(grades: dict[str, dict]) -> str:
    """`judges`, `gradings` (of one judge), or `none`."""
    majorities = {tuple(of["points"]) for of in grades.values() if of["points"]}
    if len(majorities) > 1:
        return "judges"
    for of in grades.values():
        if len({tuple(points) for points in of["gradings"]}) > 1:
            return "gradings"
    return "none"


def heading(words: str) -> str:
    return f"<h4>{html.escape(words)}</h4>"


def block(words: str) -> str:
    """Words as they are: a prompt, a reply."""
    return f'<div style="{STYLE}">{html.escape(words)}</div>'


def prompts_of(query: Query, p: Grade) -> str:
    """What a student is asked."""
    return "\n".join(generation_turns(query, p.pack())[: p.student_turns])


def verdict(record: dict) -> str:
    """A text with its skills marked, and what became of its points."""
    lost = f"; lost: {', '.join(record['lost'])}" if record["lost"] else ""
    metrics = ", ".join(f"{name.replace('_', ' ')} {record[name]:.2f}" for name in METRICS)
    return (
        f"<p>{marked(record['text'], record['skills'])}<br>"
        f"<small>{html.escape(record['verdict'] + lost)} ({metrics})</small></p>"
    )


def judge_page(
    title: str, replies: list[tuple[str, Points | Unreadable]], query: Query, pack: Pack
) -> str:
    """A judge's points by criterion and reply, and its replies as they came."""
    if not replies:
        return heading(title) + "<p>No reply of this judge is stored.</p>"
    table = pd.DataFrame(index=criteria(query, pack.rubric))
    parts = []
    for number, (reply, result) in enumerate(replies, 1):
        words = f"reply {number}"
        if isinstance(result, Unreadable):
            words += f", unreadable: {result.reason}"
        else:
            table[words] = result.numbers
        parts.append(f"<details><summary>{html.escape(words)}</summary>{block(reply)}</details>")
    return heading(title) + table.to_html(border=0) + "".join(parts)


def side_by_side(columns: dict[str, list[dict]]) -> str:
    """Answers of several models, a column each; one below the other where there is no room."""
    parts = []
    for variant, answers in columns.items():
        good = sum(answer["verdict"] == FULL for answer in answers)
        title = heading(f"{variant}: {good} of {len(answers)} with full marks")
        column = title + "".join(verdict(answer) for answer in answers)
        parts.append(f'<div style="flex:1 1 280px;min-width:0">{column}</div>')
    return f'<div style="display:flex;flex-wrap:wrap;gap:0 24px">{"".join(parts)}</div>'
