"""01_generate: the teacher's texts, and those kept of them: D(1), D(2), D(3) ([ZK24] section 3)."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice

from helpers import dataset, paths
from helpers.chat import client
from helpers.chat.conversation import Conversation, converse
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Reply, Request
from helpers.errors import UserError
from helpers.judge.grade import grade, replies
from helpers.profile.schema import Generate
from helpers.task.catalog import Query, counts_of
from helpers.task.points import DUPLICATE, NOT_NEEDED, Points
from helpers.training import chats as own_chats


class Writer:
    """Has texts written and graded, with what it needs to know of those before.

    A query that comes again is asked as another sample; a text that came before is a duplicate.
    """

    def __init__(self, p: Generate, ledger: Ledger):
        self.p = p
        self.ledger = ledger
        self.pack = p.pack()
        self.texts: set[str] = set()  # all that were written, for any k
        self.samples: Counter = Counter()  # how often a query came

    def write(self, queries: Iterator[Query], wanted: int, most: int) -> list[dict]:
        """Ask until `wanted` new texts have full marks, or `most` queries were asked.

        Returns:
            A record for every text asked for: kind, k, topic, skills, things, messages, text,
            points (in the rubric's order; None without a readable grade), dropped (why; empty if
            kept). A good text that came after the last one wanted is dropped as not needed.
        """
        records: list[dict] = []
        kept = 0
        while kept < wanted and len(records) < most:
            share = kept / len(records) if kept else 1.0
            size = max(8, round((wanted - kept) / share))
            size = min(size, most - len(records))
            for record in self.texts_for(list(islice(queries, size))):
                if kept == wanted and not record["dropped"]:
                    record["dropped"] = NOT_NEEDED
                kept += not record["dropped"]
                records.append(record)
        return records

    def texts_for(self, queries: list[Query]) -> list[dict]:
        """The record of one new text for each query."""
        replicates = []
        for query in queries:
            replicates.append(self.samples[query.identity])
            self.samples[query.identity] += 1
        turns = len(self.pack.generation)
        conversations = converse(self.ask_teacher, queries, replicates, self.pack, turns=turns)
        records = []
        for query, conversation in zip(queries, conversations, strict=True):
            messages = conversation.messages if conversation else []
            records.append(record_of(query, messages))
        self.grade(queries, records)
        return records

    def ask_teacher(self, requests: list[Request]) -> list[Reply | None]:
        outcomes = client.ask(
            requests, self.p.teacher, self.ledger, role="teacher", what="texts written"
        )
        return [outcome.first for outcome in outcomes]

    def grade(self, queries: Sequence[Query], records: list[dict]) -> None:
        """Put the judge's points into the records, and why a text is dropped."""
        answered = [i for i, record in enumerate(records) if not record["dropped"]]
        graded = grade(
            [queries[i] for i in answered],
            [records[i]["text"] for i in answered],
            self.pack,
            self.p.judge,
            self.ledger,
            gradings=self.p.filter_gradings,
            rules=self.p.rules(),
        )
        for i, text_graded in zip(answered, graded, strict=True):
            self.note(records[i], text_graded.points)

    def note(self, record: dict, points: Points | None) -> None:
        """Put the points into a record, and why its text is dropped; empty if it is kept."""
        text = record["text"]
        if points is None:
            record["dropped"] = "grade unreadable"
        elif not points.full_marks:
            record["dropped"] = points.fault()
        elif text in self.texts:
            record["dropped"] = DUPLICATE
        record["points"] = list(points.numbers) if points else None
        self.texts.add(text)


class Reader(Writer):
    """Takes texts that somebody wrote already, each with its query, in the place of new ones."""

    def texts_for(self, texts: list[tuple[Query, dataset.Row]]) -> list[dict]:
        """The record of each text, graded by the judge or as its row claims."""
        queries = []
        records = []
        for query, row in texts:
            queries.append(query)
            records.append(record_of(query, [message.model_dump() for message in row.messages]))
        if self.p.corpus_grades == "judge":
            self.grade(queries, records)
            return records
        for record, (query, row) in zip(records, texts, strict=True):
            claimed = row.points or [1] * (query.k + 3)
            self.note(record, Points.of(claimed))
        return records


def record_of(query: Query, messages: list[dict]) -> dict:
    """One line of the corpus, not graded yet; without messages there was no answer."""
    return {
        "kind": query.kind,
        "k": query.k,
        "topic": query.topic,
        "skills": list(query.names),
        "things": list(query.things),
        "messages": messages,
        "text": Conversation(messages).text if messages else "",
        "points": None,
        "dropped": "" if messages else "no answer",
    }


def build(p: Generate, ledger: Ledger) -> list[dict]:
    """D(1), D(2), ...: every text asked for, training skills and topics only, in the order of k.

    Texts with things to mention, the control's, come last: they leave the others as they are. With
    `corpus` the texts are somebody else's, and none that answers an evaluation query is taken.
    """
    texts = []
    if p.corpus:
        reserved = p.reserved()
        for query, row in dataset.read(paths.ROOT / p.corpus, p.pools()["I"]):
            if (query.topic, frozenset(query.names)) not in reserved:
                texts.append((query, row))
    writer = Reader(p, ledger) if p.corpus else Writer(p, ledger)
    records = []
    for kind in sorted(p.texts, key=lambda kind: counts_of(kind)[::-1]):
        wanted = p.texts[kind]
        if p.corpus:
            source = [text for text in texts if text[0].kind == kind]
            most = len(source)
        else:
            source = p.queries(kind)
            most = round(wanted * p.queries_per_text)
        records += writer.write(iter(source), wanted, most)
    return records


def said_of(record: dict, p: Generate, ledger: Ledger) -> list[str]:
    """What the judge said of one of the corpus's texts, in its own words."""
    skills = {skill.name: skill for skill in p.pools()["I"].skills}
    shown = tuple(skills[name] for name in record["skills"])
    query = Query(record["topic"], shown, tuple(record["things"]))
    return replies(query, record["text"], p.pack(), p.judge, ledger, gradings=p.filter_gradings)


def taken(corpus: list[dict], mix: dict[str, int]) -> list[dict]:
    """What a mix takes of the corpus: the first `mix[kind]` kept texts of each kind.

    Raises:
        UserError: the corpus holds fewer texts than the mix asks for.
    """
    if "chats" in mix:
        elsewhere = {"kind": "chats", "topic": "", "skills": []}
        return [
            {**elsewhere, **chat, "text": chat["messages"][-1]["content"]}
            for chat in own_chats.read(mix)
        ]
    texts = []
    for kind, n in mix.items():
        kept = [record for record in corpus if record["kind"] == kind and not record["dropped"]]
        if len(kept) < n:
            raise UserError(
                f"mix: {n} texts of k = {kind} asked for, and the corpus holds {len(kept)}"
            )
        texts += kept[:n]
    return texts


def training_chats(corpus: list[dict], mix: dict, *, turns: int) -> list[dict]:
    """The fine-tuning data of a mix, as chats.

    With one turn the student learns to give the teacher's improved text at once. A mix of chats
    from elsewhere is taken as it is.

    Raises:
        UserError: the corpus holds fewer texts than the mix asks for, or the chats are no chats.
    """
    if "chats" in mix:
        return own_chats.read(mix)
    chats = []
    for record in taken(corpus, mix):
        messages = record["messages"]
        if turns == 1:
            messages = [messages[0], messages[-1]]
        chats.append({"messages": messages})
    return chats
