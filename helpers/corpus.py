"""01_generate: the teacher's texts, and those kept of them: D(1), D(2), D(3) ([ZK24] section 3)."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice

from helpers import dataset, paths
from helpers.chat import client
from helpers.chat.conversation import converse
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Reply, Request
from helpers.errors import UserError
from helpers.files import read_json_lines
from helpers.judge import grade as judge
from helpers.profile.schema import Finetune, Generate
from helpers.task.catalog import Query, counts_of
from helpers.task.points import DUPLICATE, NOT_NEEDED, Points
from helpers.training import chats as own_chats

Drafts = Callable[[int], list[dict]]  # gives the next n texts: records without an outcome


def build(p: Generate, ledger: Ledger) -> list[dict]:
    """D(1), D(2), ...: every text asked for, training skills and topics only, in the order of k.

    Texts with things to mention, the control's, come last: they leave the others as they are. With
    `corpus` the texts are somebody else's, and none that answers an evaluation query is taken.

    Returns:
        A record for every text: kind, k, topic, skills, things, messages, text, points (in the
        rubric's order; None without a readable grade), dropped (why; empty if kept).
    """
    given = somebody_elses(p) if p.corpus else []
    known: set[str] = set()
    records = []
    for kind in sorted(p.texts, key=lambda kind: counts_of(kind)[::-1]):
        wanted = p.texts[kind]
        if p.corpus:
            own = [record for record in given if record["kind"] == kind]
            drafts, most = from_list(own), len(own)
        else:
            drafts = from_teacher(p, p.queries(kind), ledger)
            most = round(wanted * p.queries_per_text)
        records += keep(p, drafts, ledger, known, wanted=wanted, most=most)
    return records


def keep(
    p: Generate, drafts: Drafts, ledger: Ledger, known: set[str], *, wanted: int, most: int
) -> list[dict]:
    """Take texts until `wanted` new ones have full marks, or `most` were looked at.

    A good text that came after the last one wanted is dropped as not needed.

    Args:
        known: all texts so far, of any kind; those taken are added.
    """
    records: list[dict] = []
    kept = 0
    while kept < wanted and len(records) < most:
        share = kept / len(records) if kept else 1.0
        size = max(8, round((wanted - kept) / share))
        batch = drafts(min(size, most - len(records)))
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


def somebody_elses(p: Generate) -> list[dict]:
    """The texts of `corpus` that answer no evaluation query, with the points that they claim."""
    reserved = p.reserved()
    records = []
    for record in dataset.read(paths.ROOT / p.corpus, p.pools()["I"]):
        if (record["topic"], frozenset(record["skills"])) not in reserved:
            records.append(record)
    return records


def from_list(records: list[dict]) -> Drafts:
    """Texts that are there already."""
    left = iter(records)
    return lambda n: list(islice(left, n))


def from_teacher(p: Generate, queries: Iterator[Query], ledger: Ledger) -> Drafts:
    """Texts that the teacher is asked for; a query that comes again is another sample of it."""
    pack = p.pack()
    samples: Counter = Counter()  # how often a query came

    def ask(requests: list[Request]) -> list[Reply | None]:
        outcomes = client.ask(requests, p.teacher, ledger, role="teacher", what="texts written")
        return [outcome.first for outcome in outcomes]

    def drafts(n: int) -> list[dict]:
        several = list(islice(queries, n))
        replicates = []
        for query in several:
            replicates.append(samples[query.identity])
            samples[query.identity] += 1
        conversations = converse(ask, several, replicates, pack, turns=len(pack.generation))
        records = []
        for query, conversation in zip(several, conversations, strict=True):
            messages = conversation.messages if conversation else []
            records.append(dataset.record_of(query, messages))
        return records

    return drafts


def query_of(record: dict, p: Generate) -> Query:
    """The query that a text answers."""
    skills = {skill.name: skill for skill in p.pools()["I"].skills}
    shown = tuple(skills[name] for name in record["skills"])
    return Query(record["topic"], shown, tuple(record["things"]))


def grade(p: Generate, records: list[dict], ledger: Ledger) -> None:
    """Put the judge's points into the records."""
    answered = [record for record in records if record["messages"]]
    graded = judge.grade(
        [query_of(record, p) for record in answered],
        [record["text"] for record in answered],
        p.pack(),
        p.judge,
        ledger,
        gradings=p.filter_gradings,
        rules=p.rules(),
    )
    for record, of_judge in zip(answered, graded, strict=True):
        record["points"] = of_judge.points and list(of_judge.points.numbers)


def said_of(record: dict, p: Generate, ledger: Ledger) -> list[str]:
    """What the judge said of one of the corpus's texts, in its own words."""
    query, text = query_of(record, p), record["text"]
    return judge.replies(query, text, p.pack(), p.judge, ledger, gradings=p.filter_gradings)


def taken(p: Finetune) -> list[dict]:
    """What a mix takes: the first `mix[kind]` kept texts of each kind, or all chats from elsewhere.

    Raises:
        UserError: the corpus holds fewer texts than the mix asks for, or the chats are no chats.
    """
    if "chats" in p.mix:
        elsewhere = {"kind": "chats", "topic": "", "skills": []}
        chats = own_chats.read(p.mix)
        return [elsewhere | chat | {"text": chat["messages"][-1]["content"]} for chat in chats]
    corpus = read_json_lines(paths.corpus(p.profile), "01_generate")
    texts = []
    for kind, n in p.mix.items():
        kept = [record for record in corpus if record["kind"] == kind and not record["dropped"]]
        if len(kept) < n:
            raise UserError(
                f"mix: {n} texts of k = {kind} asked for, and the corpus holds {len(kept)}"
            )
        texts += kept[:n]
    return texts


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
