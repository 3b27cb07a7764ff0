"""01_generate: the teacher's texts, and those kept of them: D(1), D(2), D(3) ([ZK24] section 3)."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import islice, zip_longest

import pandas as pd

from helpers import dataset, paths
from helpers.chat.conversation import converse
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Reply, Request
from helpers.errors import UserError
from helpers.files import read_json_lines
from helpers.judge import grade as judge
from helpers.profile.schema import Finetune, Generate
from helpers.task.catalog import Pool, Query
from helpers.task.mixes import Amount, below_in, counts_of, in_words, part_of
from helpers.task.points import DUPLICATE, NOT_NEEDED, Points
from helpers.training import own_chats


def build(p: Generate, ledger: Ledger) -> list[dict]:
    """D(1), D(2), ...: every text asked for, training skills and topics only, in the order of k.

    The control's texts, which mention things, come last, so that the others do not depend on them.
    Where the parameter `corpus` names somebody else's texts, these are taken, but for those that
    answer an evaluation query or show a pair of skills that is kept apart, and those of kinds that
    the parameter `texts` does not name.

    Returns:
        A record for every text: kind, k, topic, skills, things, messages, text, points (in the
        rubric's order; None without a readable grade), dropped (why; empty if kept).
    """
    theirs = []
    if p.corpus:
        source, pool = paths.ROOT / p.corpus, p.pools()["I"]
        theirs = dataset.read(source, pool, reserved=p.reserved(), pairs_apart=p.pairs_apart)
        strange = Counter(text["kind"] for text in theirs if text["kind"] not in p.texts)
        for kind, n in strange.items():
            print(f"{n:,} texts of the corpus are left out: texts asks for none of k = {kind}")
    known: set[str] = set()
    records = []
    for kind in sorted(p.texts, key=lambda kind: counts_of(kind)[::-1]):
        wanted = p.texts[kind]
        if p.corpus:
            own = [text for text in theirs if text["kind"] == kind]
            source, most = iter(own), len(own)
        else:
            source, most = p.queries(kind), round(wanted * p.queries_per_text)
        records += keep(p, source, ledger, known, wanted=wanted, most=most)
    return records


def keep(
    p: Generate, source: Iterator, ledger: Ledger, known: set[str], *, wanted: int, most: int
) -> list[dict]:
    """Take texts until `wanted` new ones have full marks, or `most` were looked at.

    A good text that came after the last one wanted is dropped as not needed.

    Args:
        source: the teacher's queries; somebody else's texts where there is a `corpus`.
        known: all texts so far, of any kind, dropped ones too; these are added.
    """
    records: list[dict] = []
    samples: Counter = Counter()
    kept = 0
    while kept < wanted and len(records) < most:
        share = kept / len(records) if kept else 1.0
        size = max(8, round((wanted - kept) / share))
        batch = list(islice(source, min(size, most - len(records))))
        if not p.corpus:
            batch = write(p, batch, samples, ledger)
        if not p.corpus or p.corpus_grades == "judge":
            grade(p, batch, ledger)
        for record in batch:
            record["dropped"] = outcome(record, known)
            known.add(record["text"])
            if kept == wanted and not record["dropped"]:
                record["dropped"] = NOT_NEEDED
            kept += not record["dropped"]
        records += batch
    return records


def outcome(record: dict, known: set[str]) -> str:
    """Why a graded text is dropped; empty if it is kept."""
    if not record["messages"]:
        return "no answer"
    if record["points"] is None:
        return "grade unreadable"
    return Points.of(record["points"]).fault() or (DUPLICATE if record["text"] in known else "")


def write(p: Generate, queries: list[Query], samples: Counter, ledger: Ledger) -> list[dict]:
    """The teacher's text for each query, not graded.

    Args:
        samples: how often each query came before, by its identity; updated here. A query that
            comes again is asked for another text.
    """
    from helpers.chat import client  # loads openai (half a second): only where somebody is asked

    replicates = []
    for query in queries:
        replicates.append(samples[query.identity])
        samples[query.identity] += 1

    def ask(requests: list[Request]) -> list[Reply | None]:
        replies = client.ask(requests, p.teacher, ledger, role="teacher", what="texts written")
        return [reply.first for reply in replies]

    pack = p.pack()
    conversations = converse(ask, queries, replicates, pack, turns=len(pack.generation))
    records = []
    for query, conversation in zip(queries, conversations, strict=True):
        messages = conversation.messages if conversation else []
        records.append(dataset.record_of(query, messages))
    return records


def query_of(record: dict, pool: Pool) -> Query:
    """The query that a text answers."""
    skills = {skill.name: skill for skill in pool.skills}
    shown = tuple(skills[name] for name in record["skills"])
    return Query(record["topic"], shown, tuple(record["things"]))


def grade(p: Generate, records: list[dict], ledger: Ledger) -> None:
    """Put the judge's points into the records."""
    pool = p.pools()["I"]
    answered = [record for record in records if record["messages"]]
    graded = judge.grade(
        [query_of(record, pool) for record in answered],
        [record["text"] for record in answered],
        p.pack(),
        p.judge,
        ledger,
        gradings=p.filter_gradings,
        rules=p.rules(),
    )
    for record, of_judge in zip(answered, graded, strict=True):
        record["points"] = of_judge.points and list(of_judge.points.numbers)


def said_of(texts: pd.DataFrame, p: Generate, ledger: Ledger) -> list[str]:
    """What the judge said of the first of these texts of the corpus, in its own words.

    Nothing where there is no text, or where no judge was asked.
    """
    if texts.empty or p.corpus_grades == "claimed":
        return []
    record = texts.iloc[0]
    query, text = query_of(record, p.pools()["I"]), record["text"]
    return judge.replies(query, text, p.pack(), p.judge, ledger, gradings=p.filter_gradings)


def taken(p: Finetune) -> list[dict]:
    """What a mix takes: texts of each kind, as `taken_of` has them, or all chats from elsewhere.

    Raises:
        UserError: the corpus holds fewer texts than the mix asks for, or its chats cannot be used.
    """
    if "chats" in p.mix:
        elsewhere = {"kind": "chats", "topic": "", "skills": []}
        chats = own_chats.read(p.mix)
        return [elsewhere | chat | {"text": chat["messages"][-1]["content"]} for chat in chats]
    corpus = read_json_lines(paths.corpus(p.profile), "01_generate")
    texts = []
    for kind, amount in p.mix.items():
        texts += taken_of(kind, amount, [record for record in corpus if record["kind"] == kind])
    return texts


def taken_of(kind: str, amount: Amount, records: list[dict]) -> list[dict]:
    """The first texts of a kind that fit what a mix takes of it (`helpers.task.mixes`).

    Texts below full marks are those that were graded and lack something; none is taken twice.

    Raises:
        UserError: there are fewer texts than the mix takes.
    """
    part = part_of(amount)
    kept = [record for record in records if not record["dropped"]]
    if "pairs" in part:
        kept = of_pairs(kept, part["pairs"])
    known = {record["text"] for record in kept}
    lacking = []
    for record in records:
        if record["points"] and not all(record["points"]) and record["text"] not in known:
            known.add(record["text"])
            lacking.append(record)
    n_below = below_in(part)
    n_kept = part["texts"] - n_below
    if len(kept) < n_kept or len(lacking) < n_below:
        below = f", and {len(lacking)} below" if n_below else ""
        raise UserError(
            f"mix: {in_words(kind, amount)} asked for, and the corpus holds {len(kept)}{below}"
        )
    return kept[:n_kept] + lacking[:n_below]


def of_pairs(kept: list[dict], n: int) -> list[dict]:
    """The texts of the n pairs of skills that most texts show: one of each pair, then a second one.

    Pairs that equally many texts show are taken in the order of their names. Empty where the texts
    show fewer than n pairs.
    """
    of_pair = defaultdict(list)
    for record in kept:
        of_pair[tuple(sorted(record["skills"]))].append(record)
    if len(of_pair) < n:
        return []
    commonest = sorted(of_pair, key=lambda pair: (-len(of_pair[pair]), pair))[:n]
    rounds = zip_longest(*(of_pair[pair] for pair in commonest))
    return [record for texts in rounds for record in texts if record]


def training_chats(texts: list[dict], *, turns: int) -> list[dict]:
    """The fine-tuning data of a mix, as chats.

    With one turn the student learns to give the teacher's improved text at once. Chats from
    elsewhere are learned as they are.
    """
    chats = []
    for record in texts:
        messages = record["messages"]
        if turns == 1 and record["kind"] != "chats":
            messages = [messages[0], messages[-1]]
        chats.append({"messages": messages})
    return chats
