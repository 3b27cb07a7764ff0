"""03_grade: a student is asked the evaluation queries, its answers are graded.

[ZK24] section 4, [YK23] section 3.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from helpers import paths
from helpers.chat.conversation import Conversation, converse
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.errors import UserError
from helpers.files import read_json_lines
from helpers.judge.grade import Graded, grade
from helpers.profile.schema import Grade
from helpers.results.leaks import nearest
from helpers.student.local import Student
from helpers.student.served import Served, arguments
from helpers.task.catalog import Query, evaluation_queries
from helpers.task.points import FIRST_JUDGE, Points
from helpers.task.prompts import extract_answer
from helpers.training.recipe import fingerprint


@dataclass(frozen=True)
class Task:
    """One answer that the evaluation asks for."""

    setting: str  # I, II or III
    k: int
    number: int  # of the query, within its setting and k
    generation: int  # which answer to the query
    query: Query


def tasks(p: Grade) -> list[Task]:
    """Every answer that the evaluation asks for, in the order of setting, k, query, generation."""
    pools = p.pools()
    every = []
    for setting in p.settings:
        for k in p.evaluation_ks:
            queries = evaluation_queries(
                pools[setting], k, p.evaluation_queries, seed=p.seed, setting=setting
            )
            for number, query in enumerate(queries):
                for generation in range(p.generations):
                    every.append(Task(setting, k, number, generation, query))
    return every


def distinct_queries(p: Grade) -> pd.DataFrame:
    """How many different queries there are, and how many are asked. Columns: setting, k, distinct, asked."""
    pools = p.pools()
    rows = []
    for setting in p.settings:
        for k in p.evaluation_ks:
            distinct = pools[setting].distinct(k)
            asked = min(distinct, p.evaluation_queries)
            rows.append({"setting": setting, "k": k, "distinct": distinct, "asked": asked})
    return pd.DataFrame(rows)


def student(p: Grade, ledger: Ledger) -> Student | Served:
    """The model that the parameters name, to be asked inside a `with`.

    It answers in this process, or where `serve` or `server` say.

    Raises:
        UserError: a fine-tuned model that is not there yet.
    """
    path = p.checkpoint()
    model = paths.training(p.profile, p.variant) / "model"
    if p.mix and not (model / "config.json").exists():
        raise UserError(
            f"{path}: no model there yet; run 02_finetune for variant {p.variant} first"
        )
    if p.serve or p.server.base_url:
        return served_student(p, path, ledger)
    return Student(
        path,
        ledger,
        new_tokens=p.new_tokens,
        batch=p.sample_batch,
        temperature=p.temperature,
        top_p=p.top_p,
        seed=p.seed,
        dtype=p.sample_dtype,
        device=p.sample_device,
    )


def served_student(p: Grade, path: str, ledger: Ledger) -> Served:
    """The checkpoint at `path` behind the server that `serve` starts or `server` names."""
    names = {"model": path, "name": p.variant}
    declared = p.server.model_dump(exclude={"start_seconds"})
    known_now = {
        "base_url": p.server.base_url or "http://127.0.0.1/v1",  # the port comes when it starts
        "model": p.server.model.format(**names),
        "weights": f"served:{fingerprint(path)}:{p.sample_dtype}",
        "temperature": p.temperature,
        "top_p": p.top_p,
        "max_tokens": p.new_tokens,
        "seed": p.seed,
    }
    command = []
    if p.serve:
        command = arguments(p.serve, {**names, "dtype": p.sample_dtype, "port": "{port}"})
    return Served(
        path,
        Endpoint(**declared | known_now),
        ledger,
        command=command,
        output=paths.serving(p.profile, p.variant),
        start_seconds=p.server.start_seconds,
    )


def answers(p: Grade, every: Sequence[Task], student: Student | Served) -> list[Conversation]:
    """The student's conversation on each of the tasks.

    Raises:
        UserError: answers that came in no form that can be read.
    """
    queries = [task.query for task in every]
    generations = [task.generation for task in every]
    conversations = converse(student.ask, queries, generations, p.pack(), turns=p.student_turns)
    if lost := conversations.count(None):
        raise UserError(
            f"{lost} of {len(every)} answers came in no form that can be read;"
            " another seed asks anew"
        )
    return conversations


def evaluate(
    p: Grade, every: Sequence[Task], conversations: Sequence[Conversation], ledger: Ledger
) -> list[dict]:
    """One record a task: the query, the answer, and its `grades` by judge, as 03 writes them.

    A judge's grades are its readable gradings, the points by majority (None if none was readable),
    and why replies were unreadable. All judges see the same answers.
    """
    packs = p.packs()
    queries = [task.query for task in every]
    texts = [conversation.text for conversation in conversations]
    by_judge = {
        name: grade(
            queries, texts, packs[name], judge, ledger, gradings=p.gradings, rules=p.rules()
        )
        for name, judge in p.judges().items()
    }
    similarities = nearest(texts, training_texts(p))
    records = []
    for i, task in enumerate(every):
        grades = {name: as_record(graded[i]) for name, graded in by_judge.items()}
        records.append(
            {
                "setting": task.setting,
                "k": task.k,
                "query": task.number,
                "generation": task.generation,
                "topic": task.query.topic,
                "skills": list(task.query.names),
                "text": texts[i],
                "cut": conversations[i].cut,
                "nearest": similarities[i],
                "mix": p.mix,
                "grades": grades,
            }
        )
    return records


def as_record(graded: Graded) -> dict:
    """A judge's grades of one text as a file holds them: points are lists of 0 and 1 in the rubric's order."""
    points = graded.points
    return {
        "gradings": [list(grading.numbers) for grading in graded.gradings],
        "points": None if points is None else list(points.numbers),
        "unreadable": graded.unreadable,
    }


def training_texts(p: Grade) -> list[str]:
    """The texts that the model was fine-tuned on; none for a base."""
    if not p.mix:
        return []
    chats = read_json_lines(paths.training(p.profile, p.variant) / "chats.jsonl", "02_finetune")
    return [extract_answer(chat["messages"][-1]["content"]) for chat in chats]


def unreadable(records: Sequence[dict], p: Grade) -> pd.DataFrame:
    """What could not be read, by judge.

    Index: judge, what (gradings wanted, unreadable replies by reason, gradings still missing after
    re-asking, answers without any). Column: number.
    """
    rows = []
    for judge in p.judges():
        grades = [record["grades"][judge] for record in records]
        reasons = Counter(
            reason.split(":")[0] for given in grades for reason in given["unreadable"]
        )
        missing = sum(p.gradings - len(given["gradings"]) for given in grades)
        without = sum(not given["gradings"] for given in grades)
        rows.append((judge, "gradings wanted", p.gradings * len(records)))
        rows += [(judge, f"unreadable reply: {reason}", n) for reason, n in reasons.most_common()]
        rows.append((judge, "gradings missing", missing))
        rows.append((judge, "answers without any", without))
    table = pd.DataFrame(rows, columns=["judge", "what", "number"])
    return table.set_index(["judge", "what"])


def show(record: dict) -> str:
    """A graded answer in a few lines, for reading."""
    given = record["grades"][FIRST_JUDGE]["points"]
    marks = "unreadable"
    if given is not None:
        numbers = Points.of(given).numbers
        marks = f"{sum(numbers)} of {len(numbers)} points"
    asked = f"k = {record['k']}, {record['topic']}: {', '.join(record['skills'])}"
    return f"{asked}\n  {json.dumps(record['text'])}\n  {marks}"
