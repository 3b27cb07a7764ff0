"""03_grade: a model is asked the evaluation queries, its answers are graded.

[ZK24] section 4, [YK23] section 3.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rapidfuzz import fuzz, process

from helpers import paths
from helpers.chat.conversation import Conversation, converse
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.chat.replies import clean
from helpers.errors import UserError
from helpers.files import read_json_lines
from helpers.judge.grade import Graded, grade, replies
from helpers.paths import ROOT
from helpers.profile.schema import Answers, Grade
from helpers.results.leaks import nearest
from helpers.student.served import Served, arguments
from helpers.task.catalog import Query, evaluation_queries, read_text
from helpers.task.points import FIRST_JUDGE, Points
from helpers.task.prompts import extract_answer
from helpers.training.recipe import fingerprint

if TYPE_CHECKING:
    from helpers.student.local import Student

FIELDS = "setting, k, topic, skills, generation, text"  # of an answer that somebody else made


@dataclass(frozen=True)
class Task:
    """One answer that the evaluation asks for."""

    setting: str  # I, II or III
    k: int
    number: int  # of the query, within its setting and k
    generation: int  # which answer to the query
    query: Query

    @property
    def identity(self) -> tuple:
        return self.setting, self.k, *self.query.identity, self.generation


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


def student(p: Grade, ledger: Ledger) -> "Student | Served | contextlib.nullcontext":
    """The model that the parameters name, to be asked inside a `with`; none for given answers.

    It answers in this process, at its own address, or where `serve` or `server` say.

    Raises:
        UserError: a fine-tuned model that is not there yet.
    """
    if isinstance(p.student, Answers):
        return contextlib.nullcontext()
    if isinstance(p.student, Endpoint):
        return Served("", p.student, ledger, output=paths.serving(p.profile, p.variant))
    path = p.checkpoint()
    if p.mix and not (Path(path) / "config.json").exists():
        raise UserError(
            f"{path}: no model there yet; run 02_finetune for variant {p.variant} first"
        )
    if p.serve or p.server.base_url:
        return served_student(p, path, ledger)
    from helpers.student.local import Student  # torch: not for reading grades, nor for a server

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


def given(file: Path, every: Sequence[Task]) -> list[Conversation]:
    """The answers in a file, JSON lines with the keys `FIELDS`, one to each of the tasks.

    Raises:
        UserError: a line that is no answer to one of the tasks, or a second one to it; a task
            without an answer.
    """
    waiting = {task.identity: number for number, task in enumerate(every)}
    texts = [""] * len(every)
    for number, line in enumerate(read_text(file).strip().split("\n"), 1):
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
            query = (row["topic"], frozenset(row["skills"]))
            task = waiting.pop((row["setting"], row["k"], *query, row["generation"]), None)
            text = clean(row["text"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{where}: no answer; one is a JSON object of {FIELDS}") from None
        if task is None:
            raise UserError(
                f"{where}: answers no query of this evaluation, or one that has its answer in a"
                f" line before: {line[:200]}"
            )
        texts[task] = text
    if waiting:
        first = every[min(waiting.values())]
        raise UserError(
            f"{file}: {len(waiting)} of {len(every)} answers are missing, first that to setting"
            f" {first.setting}, k = {first.k}, generation {first.generation}, {first.query.topic}:"
            f" {', '.join(first.query.names)}"
        )
    return [
        Conversation([{"role": "assistant", "content": text}], thought="<think>" in text)
        for text in texts
    ]


def answers(
    p: Grade, every: Sequence[Task], student: "Student | Served | None"
) -> list[Conversation]:
    """The student's conversation on each of the tasks, or the answers that the parameters name.

    Raises:
        UserError: answers that came in no form that can be read.
    """
    if isinstance(p.student, Answers):
        return given(ROOT / p.student.answers, every)
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
            "refused": conversation.refused,
            "thought": conversation.thought,
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


def beside_training(p: Grade, records: Sequence[dict]) -> pd.DataFrame | None:
    """At each k the answer that is nearest to a training text, and that text; None for a base.

    Columns: k, skills, answer, training text, similarity (0 to 100).
    """
    known = training_texts(p)
    if not known:
        return None
    answers = pd.DataFrame(records)
    rows = []
    for i in answers.groupby("k").nearest.idxmax():
        answer = answers.loc[i]
        nearest_text, similarity, _ = process.extractOne(answer.text, known, scorer=fuzz.ratio)
        rows.append((answer.k, answer.skills, answer.text, nearest_text, round(similarity)))
    columns = ["k", "skills", "answer", "training text", "similarity"]
    return pd.DataFrame(rows, columns=columns)


def worked(p: Grade, every: Sequence[Task], records: Sequence[dict], ledger: Ledger) -> str:
    """From the judge's reply to points to metrics, of up to three answers with k > 1.

    The first with all points, the first that lost one, the first that lost several.
    """
    chosen = {}  # a task and its record by lost points, 2 for more
    for task, record in zip(every, records, strict=True):
        points = record["grades"][FIRST_JUDGE]["points"]
        if points and task.k > 1:
            chosen.setdefault(min(points.count(0), 2), (task, record))
    parts = []
    for _, (task, record) in sorted(chosen.items()):
        grades = record["grades"][FIRST_JUDGE]
        query = task.query
        said = replies(query, record["text"], p.pack(), p.judge, ledger, gradings=p.gradings)
        metrics = Points.of(grades["points"]).metrics()
        parts.append(
            f"k = {task.k}, {query.topic}: {', '.join(query.names)}\n"
            f"{record['text']}\n\n"
            f"The judge's first reply:\n{said[0]}\n\n"
            f"Points of the gradings: {grades['gradings']}\n"
            f"By majority, with sentences counted in code: {grades['points']}\n"
            f"Metrics: {', '.join(f'{name} {value:.2f}' for name, value in metrics.items())}"
        )
    return f"\n\n{'-' * 20}\n\n".join(parts)
