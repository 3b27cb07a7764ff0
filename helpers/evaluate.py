"""03_grade: a model is asked the evaluation queries, its answers are graded.

[ZK24] section 4, [YK23] section 3.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pydantic

from helpers import paths, text_tables
from helpers.chat.conversation import Conversation, converse
from helpers.chat.endpoint import Endpoint
from helpers.chat.ledger import Ledger
from helpers.errors import UserError
from helpers.files import read_json_lines, validated
from helpers.judge.grade import grade
from helpers.paths import ROOT
from helpers.profile.schema import Answers, Grade
from helpers.results.leaks import nearest
from helpers.student.server import arguments
from helpers.task.catalog import Query, read_text
from helpers.task.pairs import count_apart
from helpers.task.prompts import extract_answer
from helpers.task.queries import evaluation_queries
from helpers.training.recipe import fingerprint

if TYPE_CHECKING:
    from helpers.student.local import Student
    from helpers.student.served import Served

SAMPLING = {"temperature", "top_p", "seed"}  # as the stage, a student and an endpoint call them


class GivenAnswer(pydantic.BaseModel):
    """An answer that somebody else made; further keys are ignored."""

    setting: str
    k: int
    topic: str
    skills: list[str]
    generation: int
    text: str | None  # None as a server sends it: no text


def place_of(setting: str, k: int, topic: str, skills: Sequence[str], generation: int) -> str:
    """The task that an answer belongs to, in words: the same for any order of the skills."""
    names = ", ".join(sorted(skills))
    return f"setting {setting}, k = {k}, generation {generation}, {topic}: {names}"


@dataclass(frozen=True)
class Task:
    """One answer that the evaluation asks for."""

    setting: str  # I, II or III
    k: int
    number: int  # of the query, within its setting and k
    generation: int  # which answer to the query
    query: Query

    @property
    def place(self) -> str:
        query = self.query
        return place_of(self.setting, self.k, query.topic, query.names, self.generation)


def tasks(p: Grade) -> list[Task]:
    """Every answer that the evaluation asks for, in the order of setting, k, query, generation."""
    pools = p.pools()
    every = []
    for setting, k in itertools.product(p.settings, p.evaluation_ks):
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
    for setting, k in itertools.product(p.settings, p.evaluation_ks):
        distinct = pools[setting].distinct(k)
        rows.append((setting, k, distinct, min(distinct, p.evaluation_queries)))
    return pd.DataFrame(rows, columns=["setting", "k", "distinct", "asked"])


def student(p: Grade, ledger: Ledger) -> "Student | Served | contextlib.nullcontext":
    """The model that the parameters name, to be asked inside a `with`; none for given answers.

    It answers in this process, at its own address, or where `serve` or `server` say.

    Raises:
        UserError: a fine-tuned model that is not there yet.
    """
    output = paths.serving(p.profile, p.variant)
    if isinstance(p.student, Answers):
        return contextlib.nullcontext()
    from helpers.student.served import Served  # loads openai, which reading grades does not need

    if isinstance(p.student, Endpoint):
        return Served("", p.student, ledger, output=output)
    path = p.checkpoint()
    if p.mix and not (Path(path) / "config.json").exists():
        raise UserError(f"{path}: no model there yet; make reproduce PROFILE={p.profile} trains it")
    if p.serve or p.server.base_url:
        words = {"model": path, "name": p.variant, "dtype": p.sample_dtype, "port": "{port}"}
        return Served(
            path,
            address(p, path),
            ledger,
            command=arguments(p.serve, words) if p.serve else [],
            output=output,
            start_seconds=p.server.start_seconds,
        )
    from helpers.student.local import Student  # loads torch, likewise

    return Student(
        path,
        ledger,
        batch=p.sample_batch,
        dtype=p.sample_dtype,
        device=p.sample_device,
        **p.model_dump(include={"new_tokens", *SAMPLING}),
    )


def address(p: Grade, path: str) -> Endpoint:
    """Where the checkpoint at `path` answers, served as `server` says."""
    known_now = {
        "base_url": p.server.base_url or "http://127.0.0.1/v1",  # the port comes when it starts
        "model": p.server.model.format(model=path, name=p.variant),
        "weights": f"served:{fingerprint(path)}:{p.sample_dtype}",
        "max_tokens": p.new_tokens,
    }
    declared = p.server.model_dump(exclude={"start_seconds"})
    return Endpoint(**declared | known_now | p.model_dump(include=SAMPLING))


def given(file: Path, every: Sequence[Task]) -> list[Conversation]:
    """The answers in a file, JSON lines of `GivenAnswer`, one to each of the tasks.

    Raises:
        UserError: a line that is no answer to one of the tasks, or a second one to it; a task
            without an answer.
    """
    waiting = {task.place for task in every}
    texts = {}
    for number, answer in validated(read_text(file).split("\n"), GivenAnswer, str(file)):
        place = place_of(**answer.model_dump(exclude={"text"}))
        if place not in waiting:
            raise UserError(
                f"{file}, line {number}: answers no query of this evaluation, or one that has its"
                f" answer in a line before: {place}"
            )
        waiting.remove(place)
        texts[place] = answer.text or ""
    if waiting:
        raise UserError(
            f"{file}: {len(waiting)} of {len(every)} answers are missing, first that to"
            f" {min(waiting)}"
        )
    conversations = []
    for task in every:
        message = {"role": "assistant", "content": texts[task.place]}
        conversations.append(Conversation([message], thought="<think>" in message["content"]))
    return conversations


def answers(
    p: Grade, every: Sequence[Task], student: "Student | Served | None"
) -> list[Conversation]:
    """The student's conversation on each of the tasks, or the answers that the parameters name.

    Raises:
        UserError: requests that brought no answer.
    """
    if isinstance(p.student, Answers):
        return given(ROOT / p.student.answers, every)
    queries = [task.query for task in every]
    generations = [task.generation for task in every]
    conversations = converse(student.ask, queries, generations, p.pack(), turns=p.student_turns)
    if lost := conversations.count(None):
        raise UserError(
            f"{lost} of {len(every)} requests brought no chat completion, after all tries;"
            " change seed to ask them again"
        )
    return conversations


def evaluate(
    p: Grade, every: Sequence[Task], conversations: Sequence[Conversation], ledger: Ledger
) -> list[dict]:
    """One record a task: the query, the answer, and its `grades` by judge, as 03 writes them.

    A judge's grades are its readable gradings, the points by majority (None if none was readable),
    0 and 1 in the rubric's order, and why replies were unreadable. All judges see the same answers.
    """
    queries = [task.query for task in every]
    texts = [conversation.text for conversation in conversations]
    known = training_texts(p)
    similarities = nearest(texts, known)
    records = []
    for task, conversation, similarity in zip(every, conversations, similarities, strict=True):
        record = {
            "setting": task.setting,
            "k": task.k,
            "query": task.number,
            "generation": task.generation,
            "topic": task.query.topic,
            "skills": list(task.query.names),
            "apart": count_apart(task.query.names, p.pairs_apart),
            "text": conversation.text,
            "cut": conversation.cut,
            "refused": conversation.refused,
            "thought": conversation.thought,
            "nearest": similarity,
            "mix": {"chats": len(known)} if "chats" in p.mix else p.mix,
            "grades": {},
        }
        records.append(record)
    packs = p.packs()
    settings = {"gradings": p.gradings, "rules": p.rules()}
    for name, judge in p.judges().items():
        graded = grade(queries, texts, packs[name], judge, ledger, **settings)
        for record, text_graded in zip(records, graded, strict=True):
            points = text_graded.points
            record["grades"][name] = {
                "gradings": [list(grading.numbers) for grading in text_graded.gradings],
                "points": list(points.numbers) if points else None,
                "unreadable": text_graded.unreadable,
            }
    return records


def graded_answers(profile: str) -> pd.DataFrame:
    """Every graded answer of a run.

    Columns: variant, and those of `text_tables.answers`: the text, the first judge's points and
    what they come to, and `grades`, all judges' own.

    Raises:
        UserError: nothing was graded yet.
    """
    tables = {}
    for file in sorted((paths.run(profile) / "grades").glob("*.jsonl")):
        tables[file.stem] = text_tables.answers(read_json_lines(file, "03_grade"))
    if not tables:
        raise UserError(
            f"{paths.run(profile)}: no graded answers there yet;"
            f" make reproduce PROFILE={profile} makes them"
        )
    return pd.concat(tables, names=["variant", None]).reset_index("variant")


def training_texts(p: Grade) -> list[str]:
    """The texts that the model was fine-tuned on, of all the assistant's turns; none for a base."""
    if not p.mix:
        return []
    texts = []
    for chat in read_json_lines(
        paths.training(p.profile, p.variant) / "chats.jsonl", "02_finetune"
    ):
        for message in chat["messages"]:
            if message["role"] == "assistant":
                texts.append(extract_answer(message["content"]))
    return texts


def unreadable(records: Sequence[dict], p: Grade) -> pd.DataFrame:
    """What could not be read, by judge.

    Index: judge, what (gradings wanted, gradings still missing after re-asking, answers without
    any, unreadable replies by reason). Column: number.
    """
    counts: Counter = Counter()
    for record in records:
        for judge, grades in record["grades"].items():
            readable = len(grades["gradings"])
            counts[judge, "gradings wanted"] += p.gradings
            counts[judge, "gradings missing"] += p.gradings - readable
            counts[judge, "answers without any"] += readable == 0
            for reason in grades["unreadable"]:
                counts[judge, f"unreadable reply: {reason.split(':')[0]}"] += 1
    return pd.Series(counts, name="number").rename_axis(["judge", "what"]).to_frame()
