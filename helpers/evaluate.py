"""03_grade: a student is asked the evaluation queries, its answers are graded.

[ZK24] section 4, [YK23] section 3.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from helpers.task.points import FIRST_JUDGE
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
    """How many different queries there are, and how many are asked.

    Columns: setting, k, distinct, asked.
    """
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
    if p.mix and not (Path(path) / "config.json").exists():
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
    queries = [task.query for task in every]
    texts = [conversation.text for conversation in conversations]
    known = training_texts(p)
    similarities = nearest(texts, known)
    mix = {"chats": len(known)} if "chats" in p.mix else p.mix
    records = []
    for task, conversation, similarity in zip(every, conversations, similarities, strict=True):
        record = {
            "setting": task.setting,
            "k": task.k,
            "query": task.number,
            "generation": task.generation,
            "topic": task.query.topic,
            "skills": list(task.query.names),
            "text": conversation.text,
            "cut": conversation.cut,
            "nearest": similarity,
            "mix": mix,
            "grades": {},
        }
        records.append(record)
    packs = p.packs()
    settings = {"gradings": p.gradings, "rules": p.rules()}
    for name, judge in p.judges().items():
        graded = grade(queries, texts, packs[name], judge, ledger, **settings)
        for record, text_graded in zip(records, graded, strict=True):
            record["grades"][name] = as_record(text_graded)
    return records


def as_record(graded: Graded) -> dict:
    """A judge's grades of one text as a file holds them: 0 and 1 in the rubric's order."""
    points = graded.points
    return {
        "gradings": [list(grading.numbers) for grading in graded.gradings],
        "points": None if points is None else list(points.numbers),
        "unreadable": graded.unreadable,
    }


def graded_answers(profile: str) -> pd.DataFrame:
    """Every graded answer of a run with its text and points, a row an answer and judge.

    Columns: variant, what 03_grade writes of an answer (`evaluate`), judge, and that judge's
    gradings, points, unreadable.

    Raises:
        UserError: nothing was graded yet.
    """
    folder = paths.run(profile) / "grades"
    rows = []
    for file in sorted(folder.glob("*.jsonl")):
        for record in read_json_lines(file, "03_grade"):
            for judge, grades in record.pop("grades").items():
                rows.append({"variant": file.stem, **record, "judge": judge, **grades})
    if not rows:
        raise UserError(f"{folder}: no graded answers there yet; run 03_grade first")
    return pd.DataFrame(rows)


def training_texts(p: Grade) -> list[str]:
    """The texts that the model was fine-tuned on, of all the assistant's turns; none for a base."""
    if not p.mix:
        return []
    chats = paths.training(p.profile, p.variant) / "chats.jsonl"
    texts = []
    for chat in read_json_lines(chats, "02_finetune"):
        for message in chat["messages"]:
            if message["role"] == "assistant":
                texts.append(extract_answer(message["content"]))
    return texts


def unreadable(records: Sequence[dict], p: Grade) -> pd.DataFrame:
    """What could not be read, by judge.

    Index: judge, what (gradings wanted, unreadable replies by reason, gradings still missing after
    re-asking, answers without any). Column: number.
    """
    rows = []
    for judge in p.judges():
        reasons: Counter = Counter()
        missing = without = 0
        for record in records:
            grades = record["grades"][judge]
            reasons.update(reason.split(":")[0] for reason in grades["unreadable"])
            missing += p.gradings - len(grades["gradings"])
            without += not grades["gradings"]
        rows.append((judge, "gradings wanted", p.gradings * len(records)))
        rows += [(judge, f"unreadable reply: {reason}", n) for reason, n in reasons.most_common()]
        rows.append((judge, "gradings missing", missing))
        rows.append((judge, "answers without any", without))
    table = pd.DataFrame(rows, columns=["judge", "what", "number"])
    return table.set_index(["judge", "what"])


def show(record: dict) -> str:
    """A graded answer in a few lines, for reading."""
    points = record["grades"][FIRST_JUDGE]["points"]
    marks = f"{sum(points)} of {len(points)} points" if points else "unreadable"
    query = f"k = {record['k']}, {record['topic']}: {', '.join(record['skills'])}"
    return f"{query}\n  {json.dumps(record['text'])}\n  {marks}"
