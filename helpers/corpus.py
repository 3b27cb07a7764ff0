"""The teacher's texts and what is kept of them: D(1), D(2), D(3) ([ZK24] section 3)."""

import filecmp
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pandas as pd

from helpers import chat
from helpers.catalog import Query, evaluation_queries, training_queries
from helpers.endpoint import Endpoint
from helpers.errors import UserError
from helpers.grading import grade
from helpers.ledger import Ledger
from helpers.params import Generate
from helpers.prompts import Pack, converse, extract_answer

DUPLICATE = "full marks, duplicate"
NOT_NEEDED = "full marks, not needed"
OTHER_CRITERIA = ("off topic", "makes no sense", "too many sentences")


def why_dropped(points: tuple[int, ...] | None) -> str:
    """In a few words, what a text without full marks lacks; empty for full marks."""
    if points is None:
        return "grade unreadable"
    faults = ["skill missing"] * (0 in points[:-3]) + [f for f, p in zip(OTHER_CRITERIA, points[-3:], strict=True) if not p]
    return faults[0] if len(faults) == 1 else "several faults" if faults else ""


def write_texts(
    queries: Iterator[Query],
    wanted: int,
    budget: int,
    pack: Pack,
    *,
    teacher: Endpoint,
    judge: Endpoint,
    ledger: Ledger,
    gradings: int,
    seen: set[str],
    sentence_counter: str = "reference",
    deduct_named_skills: bool = False,
) -> list[dict]:
    """Ask the teacher, in all the pack's turns, until `wanted` new texts with full marks are there or `budget` queries were asked.

    Args:
        seen: texts that were written before, for another k too; every text asked for is added to it.

    Returns:
        A record for every text asked for: k, topic, skills, messages, text, points, dropped (why; empty if kept). A good
        text that came after the last one wanted is dropped as `NOT_NEEDED`.
    """
    records: list[dict] = []
    asked: dict = {}  # how often a query came: a repeat is asked as a new replicate
    kept = 0
    while kept < wanted and len(records) < budget:
        share = kept / len(records) if kept else 1.0
        some = list(islice(queries, min(budget - len(records), max(8, round((wanted - kept) / share)))))
        replicates = []
        for query in some:
            replicates.append(asked.get(query.identity, 0))
            asked[query.identity] = replicates[-1] + 1

        def ask(requests):
            return chat.ask(requests, teacher, ledger, stage="teacher", what="texts written")

        talks = converse(ask, some, replicates, pack, turns=len(pack.generation))
        answered = [(q, t[0], extract_answer(t[0][-1]["content"])) for q, t in zip(some, talks, strict=True) if t]
        rules = {"gradings": gradings, "sentence_counter": sentence_counter, "deduct_named_skills": deduct_named_skills}
        graded = grade([q for q, _, _ in answered], [text for _, _, text in answered], pack, judge, ledger, **rules)
        records += [_record(q, dropped="no answer") for q, t in zip(some, talks, strict=True) if not t]
        for (query, messages, text), points in zip(answered, [g.points for g in graded], strict=True):
            dropped = why_dropped(points) or (DUPLICATE if text in seen else NOT_NEEDED if kept == wanted else "")
            seen.add(text)
            kept += not dropped
            records.append(_record(query, messages=messages, text=text, points=points, dropped=dropped))
    return records


def avoided(p: Generate) -> set:
    """Identities of the evaluation's queries, from k = 2 on, that no training text may answer."""
    pool, some = p.pools()["I"], [k for k in p.evaluation_ks if k > 1]
    return {q.identity for k in some for q in evaluation_queries(pool, k, p.evaluation_queries, seed=p.seed, setting="I")}


def build(p: Generate, ledger: Ledger) -> list[dict]:
    """D(1), D(2), ...: every text asked for, training skills and topics only, in the order of k."""
    pools, pack, avoid = p.pools(), p.pack(), avoided(p)
    records, seen = [], set()
    for k, wanted in sorted((int(k), n) for k, n in p.texts.items()):
        records += write_texts(
            training_queries(pools["I"], k, seed=p.seed, avoid=avoid),
            wanted,
            round(wanted * p.queries_per_text),
            pack,
            teacher=p.teacher,
            judge=p.judge,
            ledger=ledger,
            gradings=p.filter_gradings,
            seen=seen,
            sentence_counter=p.sentence_counter,
            deduct_named_skills=p.deduct_named_skills,
        )
    return records


def outcomes(records: list[dict]) -> pd.DataFrame:
    """How many texts of each k were kept, or dropped and why. Columns: k, outcome, texts."""
    table = pd.DataFrame({"k": [r["k"] for r in records], "outcome": [r["dropped"] or "kept" for r in records]})
    return table.value_counts(sort=False).rename("texts").reset_index()


def _record(query: Query, *, messages=(), text="", points=None, dropped: str) -> dict:
    return {
        "k": query.k,
        "topic": query.topic,
        "skills": list(query.names),
        "messages": list(messages),
        "text": text,
        "points": points,
        "dropped": dropped,
    }


def write_json_lines(path: Path, rows: list[dict]) -> None:
    """Written aside, then renamed: a file that is there is whole. One that would be the same is left as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(aside, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if path.exists() and filecmp.cmp(aside, path, shallow=False):
        aside.unlink()
    else:
        aside.replace(path)


def read_json_lines(path: Path, made_by: str) -> list[dict]:
    """The rows of a file.

    Raises:
        UserError: there is no such file yet; says which stage makes it.
    """
    if not path.exists():
        raise UserError(f"{path}: not there yet; run {made_by} first")
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def training_chats(corpus: list[dict], mix: dict[int, int], *, turns: int) -> list[dict]:
    """The fine-tuning data of a mix: the first `mix[k]` kept texts of each D(k), as chats of `turns` user turns.

    With one turn the student learns to give the teacher's improved text at once.

    Raises:
        UserError: the corpus holds fewer texts than the mix asks for.
    """
    chats = []
    for k, n in mix.items():
        kept = [r for r in corpus if r["k"] == k and not r["dropped"]]
        if len(kept) < n:
            raise UserError(f"mix: {n} texts of k = {k} asked for, and the corpus holds {len(kept)}")
        for record in kept[:n]:
            messages = record["messages"]
            chats.append({"messages": messages if turns > 1 else [messages[0], messages[-1]]})
    return chats
