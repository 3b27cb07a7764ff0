"""What training and evaluation share: topics, skills, queries, near-duplicate texts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from rapidfuzz import fuzz, process

from helpers.results.scores import model_of
from helpers.task.pairs import count_apart, pairs_of

NEAR = 90  # similarity (0 to 100) from which two texts count as near-duplicates


def nearest(texts: Sequence[str], known: Sequence[str]) -> list[float]:
    """For each text the similarity (0 to 100) of the most similar known text; 0 below `NEAR`."""
    if not known:
        return [0.0] * len(texts)
    similarity = {}
    for text in set(texts):
        scores = process.cdist([text], known, scorer=fuzz.ratio, score_cutoff=NEAR, dtype=np.uint8)
        similarity[text] = float(scores.max())
    return [similarity[text] for text in texts]


def leaks(graded: dict[str, list[dict]], corpus: list[dict], pairs_apart: float) -> pd.DataFrame:
    """What each model's training and evaluation share (docs/protocol.md, "Settled").

    Args:
        graded: by variant, the records that 03_grade writes.
        corpus: the records that 01_generate writes.
        pairs_apart: the share of the pairs of skills kept apart.

    Returns:
        Columns: model (all its training seeds together), setting, k, queries, answers;
        same_task: queries whose topic and skills a text was written for; must be 0 in setting I
            from k = 2 on;
        pair_shown: queries with a pair of skills that should be kept apart, and that a text was
            written for all the same; must be 0;
        same_topic, same_skill: queries that share a topic or a skill with a text; must be 0 in
            setting II;
        near_texts: answers that are near-duplicates of a text that the model was trained on.
        Of a model that was trained on chats from elsewhere all of these but near_texts are NaN:
        nobody knows the topics and skills of such chats.
    """
    # Also texts below full marks: a mix may take them.
    written = [record for record in corpus if record["text"]]
    trained_tasks = {(record["topic"], frozenset(record["skills"])) for record in written}
    trained_topics = {record["topic"] for record in written}
    trained_skills = {skill for record in written for skill in record["skills"]}
    trained_pairs = {pair for record in written for pair in pairs_of(record["skills"])}
    apart_and_shown = {pair for pair in trained_pairs if count_apart(pair, pairs_apart)}
    rows = []
    for variant, records in graded.items():
        model = model_of(variant)
        for record in records:
            topic, skills = record["topic"], frozenset(record["skills"])
            first = record["generation"] == 0  # counts the query once
            known = np.nan if "chats" in record["mix"] else float(first)
            leaked = any(pair in apart_and_shown for pair in pairs_of(skills))
            rows.append(
                {
                    "model": model,
                    "setting": record["setting"],
                    "k": record["k"],
                    "queries": first,
                    "answers": 1,
                    "same_task": known * ((topic, skills) in trained_tasks),
                    "pair_shown": known * leaked,
                    "same_topic": known * (topic in trained_topics),
                    "same_skill": known * (not trained_skills.isdisjoint(skills)),
                    "near_texts": record["nearest"] >= NEAR,
                }
            )
    table = pd.DataFrame(rows)
    return table.groupby(["model", "setting", "k"], sort=False).sum(min_count=1).reset_index()


def not_compared(shared: pd.DataFrame) -> list[str]:
    """A sentence for each model whose training topics and skills are not known."""
    return [
        f"{model}: trained on chats without topics and skills; only near-duplicates were looked for"
        for model in shared[shared.same_task.isna()].model.unique()
    ]
