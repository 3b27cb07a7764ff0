"""01_generate: the teacher's texts, and what is kept of them: D(1), D(2), D(3) ([ZK24] section 3)."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from helpers.chat import client
from helpers.chat.conversation import Conversation, converse
from helpers.chat.ledger import Ledger
from helpers.chat.replies import Reply, Request
from helpers.errors import UserError
from helpers.judge.grade import grade
from helpers.profile.schema import Generate
from helpers.task.catalog import Query, counts_of, evaluation_queries
from helpers.task.points import DUPLICATE, NOT_NEEDED, Points


class Writer:
    """Has texts written and graded, with what it needs to know of those before.

    A query that comes again is asked as another sample; a text that came before is a duplicate.
    """

    def __init__(self, p: Generate, ledger: Ledger):
        self.p, self.ledger, self.pack = p, ledger, p.pack()
        self.texts: set[str] = set()  # all that were written, for any k

    def ask_teacher(self, requests: list[Request]) -> list[Reply | None]:
        outcomes = client.ask(
            requests, self.p.teacher, self.ledger, role="teacher", what="texts written"
        )
        return [outcome.first for outcome in outcomes]

    def write(self, queries: Iterator[Query], wanted: int, most: int) -> list[dict]:
        """Ask until `wanted` new texts have full marks, or `most` queries were asked.

        Returns:
            A record for every text asked for: kind, k, topic, skills, things, messages, text,
            points, dropped (why; empty if kept). A good text that came after the last one wanted
            is dropped as not needed.
        """
        records: list[dict] = []
        samples: Counter = Counter()  # how often a query came
        kept = 0
        while kept < wanted and len(records) < most:
            share = kept / len(records) if kept else 1.0
            size = max(8, round((wanted - kept) / share))
            round_of_queries = list(islice(queries, min(most - len(records), size)))
            replicates = []
            for query in round_of_queries:
                replicates.append(samples[query.identity])
                samples[query.identity] += 1
            conversations = converse(
                self.ask_teacher,
                round_of_queries,
                replicates,
                self.pack,
                turns=len(self.pack.generation),
            )
            written = []
            for query, conversation in zip(round_of_queries, conversations, strict=True):
                if conversation is None:
                    records.append(record_of(query, None, None, dropped="no answer"))
                else:
                    written.append((query, conversation))
            for query, conversation, points in self.graded(written):
                dropped = self.why_dropped(conversation.text, points, enough=kept == wanted)
                self.texts.add(conversation.text)
                kept += not dropped
                records.append(record_of(query, conversation, points, dropped=dropped))
        return records

    def graded(
        self, written: list[tuple[Query, Conversation]]
    ) -> Iterator[tuple[Query, Conversation, Points | None]]:
        """The written texts with their points, None where no grading was readable."""
        graded = grade(
            [query for query, _ in written],
            [conversation.text for _, conversation in written],
            self.pack,
            self.p.judge,
            self.ledger,
            gradings=self.p.filter_gradings,
            rules=self.p.rules(),
        )
        for (query, conversation), text_graded in zip(written, graded, strict=True):
            yield query, conversation, text_graded.points

    def why_dropped(self, text: str, points: Points | None, *, enough: bool) -> str:
        """In a few words; empty for a text that is kept."""
        if points is None:
            return "grade unreadable"
        if not points.full_marks:
            return points.fault()
        if text in self.texts:
            return DUPLICATE
        return NOT_NEEDED if enough else ""


def record_of(
    query: Query, conversation: Conversation | None, points: Points | None, *, dropped: str
) -> dict:
    """One line of the corpus; the points are in the rubric's order."""
    return {
        "kind": query.kind,
        "k": query.k,
        "topic": query.topic,
        "skills": list(query.names),
        "things": list(query.things),
        "messages": conversation.messages if conversation else [],
        "text": conversation.text if conversation else "",
        "points": list(points.numbers) if points else None,
        "dropped": dropped,
    }


def avoided(p: Generate) -> set:
    """Identities of the evaluation's queries, from k = 2 on, that no training text may answer."""
    pool = p.pools()["I"]
    identities = set()
    for k in p.evaluation_ks:
        if k > 1:
            queries = evaluation_queries(pool, k, p.evaluation_queries, seed=p.seed, setting="I")
            identities |= {query.identity for query in queries}
    return identities


def build(p: Generate, ledger: Ledger) -> list[dict]:
    """D(1), D(2), ...: every text asked for, training skills and topics only, in the order of k.

    Texts with things to mention, the control's, come last: they leave the others as they are.
    """
    avoid, writer = avoided(p), Writer(p, ledger)
    records = []
    for kind in sorted(p.texts, key=lambda kind: counts_of(kind)[::-1]):
        wanted = p.texts[kind]
        most = round(wanted * p.queries_per_text)
        records += writer.write(p.queries(kind, avoid), wanted, most)
    return records


def training_chats(corpus: list[dict], mix: dict[str, int], *, turns: int) -> list[dict]:
    """The fine-tuning data of a mix: the first `mix[kind]` kept texts of each kind, as chats.

    With one turn the student learns to give the teacher's improved text at once.

    Raises:
        UserError: the corpus holds fewer texts than the mix asks for.
    """
    chats = []
    for kind, n in mix.items():
        kept = [record for record in corpus if record["kind"] == kind and not record["dropped"]]
        if len(kept) < n:
            raise UserError(
                f"mix: {n} texts of k = {kind} asked for, and the corpus holds {len(kept)}"
            )
        for record in kept[:n]:
            messages = record["messages"]
            chats.append({"messages": messages if turns > 1 else [messages[0], messages[-1]]})
    return chats
