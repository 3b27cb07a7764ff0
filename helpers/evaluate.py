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
from helpers.errors import UserError
from helpers.grading import grade
from helpers.ledger import Ledger
from helpers.params import FIRST, Grade
from helpers.prompts import converse, extract_answer
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


def load_student(p: Grade, ledger: Ledger) -> Student:
    """The model that the parameters name."""
    if p.mix and not (paths.training(p.profile, p.variant) / "model/config.json").exists():
        raise UserError(f"{p.checkpoint()}: no model there yet; run 02_finetune for variant {p.variant} first")
    return Student(
        p.checkpoint(),
        ledger,
        new_tokens=p.new_tokens,
        temperature=p.temperature,
        batch=p.sample_batch,
        seed=p.seed,
        dtype=p.sample_dtype,
    )


def evaluate(p: Grade, student: Student, ledger: Ledger) -> list[dict]:
    """One record a generation: the task, the answer, and its `grades` by judge.

    A judge's grades are its readable gradings, the points by majority (None if none was readable), and why replies were
    unreadable. All judges see the same answers.
    """
    pack, all_tasks = p.pack(), tasks(p)
    queries = [t["task"] for t in all_tasks]
    talks = converse(student.ask, queries, [t["generation"] for t in all_tasks], pack, turns=p.student_turns)
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
