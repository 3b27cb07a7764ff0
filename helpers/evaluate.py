"""Asks a student the evaluation queries and has its answers graded ([ZK24] section 4; [YK23] section 3)."""

import json
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from rapidfuzz import fuzz, process

from helpers import paths
from helpers.catalog import evaluation_queries
from helpers.corpus import read_json_lines
from helpers.endpoint import Endpoint
from helpers.errors import UserError
from helpers.grading import grade
from helpers.ledger import Ledger
from helpers.params import FIRST, Grade
from helpers.prompts import converse, extract_answer
from helpers.recipe import fingerprint
from helpers.serving import Served, arguments
from helpers.student import Student

NEAR = 90  # similarity (0 to 100) from which two texts count as near-duplicates


def tasks(p: Grade) -> list[dict]:
    """Every (setting, k, query, generation) of the evaluation, the query itself beside them."""
    pools, found = p.pools(), []
    for setting in p.settings:
        for k in p.evaluation_ks:
            queries = evaluation_queries(pools[setting], k, p.evaluation_queries, seed=p.seed, setting=setting)
            found += [
                {"setting": setting, "k": k, "query": i, "generation": g, "task": query}
                for i, query in enumerate(queries)
                for g in range(p.generations)
            ]
    return found


def distinct_queries(p: Grade) -> pd.DataFrame:
    """How many different queries there are and how many are asked, by setting and k."""
    pools = p.pools()
    there = {(s, k): pools[s].distinct(k) for s in p.settings for k in p.evaluation_ks}
    rows = [{"setting": s, "k": k, "distinct": n, "asked": min(n, p.evaluation_queries)} for (s, k), n in there.items()]
    return pd.DataFrame(rows)


def student(p: Grade, ledger: Ledger) -> Student | Served:
    """The model that the parameters name, to be asked inside a `with`: in this process, or where `serve` or `server` say."""
    path = p.checkpoint()
    if p.mix and not (paths.training(p.profile, p.variant) / "model/config.json").exists():
        raise UserError(f"{path}: no model there yet; run 02_finetune for variant {p.variant} first")
    if not (p.serve or p.server.base_url):
        settings = {"temperature": p.temperature, "top_p": p.top_p, "seed": p.seed, "dtype": p.sample_dtype, "device": p.sample_device}
        return Student(path, ledger, new_tokens=p.new_tokens, batch=p.sample_batch, **settings)
    names = {"model": path, "name": p.variant}
    asked = {"temperature": p.temperature, "top_p": p.top_p, "max_tokens": p.new_tokens, "seed": p.seed}
    asked |= {"base_url": p.server.base_url or "http://127.0.0.1/v1"}  # its port is known once it is started
    asked |= {"model": p.server.model.format(**names), "weights": f"served:{fingerprint(path)}:{p.sample_dtype}"}
    endpoint = Endpoint(**p.server.model_dump(exclude={"start_seconds"}) | asked)
    command = arguments(p.serve, {**names, "dtype": p.sample_dtype, "port": "{port}"}) if p.serve else []
    return Served(path, endpoint, ledger, command=command, output=paths.serving(p.profile, p.variant), start_seconds=p.server.start_seconds)


def answers(p: Grade, student: Student | Served) -> list[tuple[list[dict], bool]]:
    """The student's conversation on each of the `tasks`, and whether its last reply was cut at the token limit."""
    asked = tasks(p)
    talks = converse(student.ask, [t["task"] for t in asked], [t["generation"] for t in asked], p.pack(), turns=p.student_turns)
    if lost := sum(talk is None for talk in talks):
        raise UserError(f"{lost} of {len(talks)} answers came in no form that can be read; another seed asks anew")
    return talks


def evaluate(p: Grade, talks: list[tuple[list[dict], bool]], ledger: Ledger) -> list[dict]:
    """One record a generation: the task, the answer, and its `grades` by judge.

    A judge's grades are its readable gradings, the points by majority (None if none was readable), and why replies were
    unreadable. All judges see the same answers.
    """
    pack, all_tasks = p.pack(), tasks(p)
    queries = [t["task"] for t in all_tasks]
    texts = [extract_answer(messages[-1]["content"]) for messages, _ in talks]
    rules = {"gradings": p.gradings, "sentence_counter": p.sentence_counter, "deduct_named_skills": p.deduct_named_skills}
    by_judge = {name: grade(queries, texts, pack, judge, ledger, **rules) for name, judge in p.judges().items()}
    near = nearest(texts, training_texts(p))
    records = []
    for i, (task, (_, cut), text, similarity) in enumerate(zip(all_tasks, talks, texts, near, strict=True)):
        query = task["task"]
        asked = {"topic": query.topic, "skills": list(query.names), "text": text, "cut": cut, "nearest": similarity}
        found = {name: graded[i] for name, graded in by_judge.items()}
        grades = {name: {"gradings": g.gradings, "points": g.points, "unreadable": g.unreadable} for name, g in found.items()}
        records.append({**{name: value for name, value in task.items() if name != "task"}, **asked, "mix": p.mix, "grades": grades})
    return records


def training_texts(p: Grade) -> list[str]:
    """The texts that the model was fine-tuned on; none for a base."""
    if not p.mix:
        return []
    chats = read_json_lines(paths.training(p.profile, p.variant) / "chats.jsonl", "02_finetune")
    return [extract_answer(c["messages"][-1]["content"]) for c in chats]


def nearest(texts: Sequence[str], known: Sequence[str]) -> list[float]:
    """For each text the similarity (0 to 100) of the most similar known text; similarities below `NEAR` are given as 0."""
    if not known:
        return [0.0] * len(texts)
    distinct = sorted(set(texts))
    best = [process.cdist([t], known, scorer=fuzz.ratio, score_cutoff=NEAR, dtype=np.uint8).max() for t in distinct]
    similarity = dict(zip(distinct, map(float, best), strict=True))
    return [similarity[t] for t in texts]


def leaks(graded: dict[str, list[dict]], corpus: list[dict]) -> pd.DataFrame:
    """What training and evaluation share, counted on the files (protocol, "Settled").

    Columns: model (all its training seeds together), setting, k, queries, answers; same_task (queries whose topic and skills
    were trained on: must be 0 in setting I from k = 2 on), same_topic and same_skill (must be 0 in setting II), near_texts
    (answers that are near-duplicates of a text the model was trained on).
    """
    kept = [r for r in corpus if not r["dropped"]]
    trained = {(r["topic"], frozenset(r["skills"])) for r in kept}
    topics, skills = {r["topic"] for r in kept}, {s for r in kept for s in r["skills"]}
    rows = []
    for model, records in graded.items():
        for r in records:
            first = r["generation"] == 0
            row = {"model": re.sub(r"-s\d+$", "", model), "setting": r["setting"], "k": r["k"], "queries": first, "answers": 1}
            row["same_task"] = first and (r["topic"], frozenset(r["skills"])) in trained
            row["same_topic"] = first and r["topic"] in topics
            row["same_skill"] = first and not skills.isdisjoint(r["skills"])
            rows.append({**row, "near_texts": r["nearest"] >= NEAR})
    return pd.DataFrame(rows).groupby(["model", "setting", "k"], sort=False).sum().reset_index()


def unreadable(records: Sequence[dict], p: Grade) -> pd.DataFrame:
    """What could not be read: gradings wanted of each judge, its unreadable replies by reason, and what is missing after re-asking."""
    rows = []
    for name in p.judges():
        graded = [r["grades"][name] for r in records]
        replies = Counter(reason.split(":")[0] for g in graded for reason in g["unreadable"])
        numbers = {
            "gradings wanted": p.gradings * len(records),
            **{f"unreadable reply: {reason}": n for reason, n in replies.most_common()},
            "gradings missing": sum(p.gradings - len(g["gradings"]) for g in graded),
            "answers without any": sum(not g["gradings"] for g in graded),
        }
        rows += [{"judge": name, "what": what, "number": n} for what, n in numbers.items()]
    return pd.DataFrame(rows).set_index(["judge", "what"])


def show(record: dict) -> str:
    """A graded answer in a few lines, for reading."""
    points = record["grades"][FIRST]["points"]
    marks = "unreadable" if points is None else f"{sum(points)} of {len(points)} points"
    return f"k = {record['k']}, {record['topic']}: {', '.join(record['skills'])}\n  {json.dumps(record['text'])}\n  {marks}"
