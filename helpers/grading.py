r"""From a judge's reply to points ([YK23] section 3): the rubric's reader, the sentence counter, the vote, the metrics.

A reply is read by the criteria's *names*; what cannot be read is `unreadable` with a reason, never a zero and never a
one. Points are whole: a fraction below 1 earns nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz, process

from helpers import chat
from helpers.catalog import Query
from helpers.ledger import Ledger
from helpers.prompts import Pack, criteria, grading_turn, sentence_limit

CLOSE = 88  # similarity (0 to 100) from which two wordings are the same criterion ...
APART = 6  # ... if no other criterion comes this near


@dataclass(frozen=True)
class Verdict:
    """The points of one grading, in the rubric's order, or None and why."""

    points: tuple[int, ...] | None
    reason: str = ""


def plain(text: str) -> str:
    """Lower case, letters and digits only, one space between words: curly quotes and Markdown do not matter."""
    return " ".join(re.findall(r"\w+", text.lower().replace("’", "'").replace("'", "").replace("_", " ")))


# A number of points: 1, 0.5, 1/1, 1 out of 1, **1**, 1.0., "Point earned: 1", "= 1 point".
POINTS = re.compile(
    r"(?P<got>-?\d+(?:\.\d+)?)\s*(?:(?:/|out of)\s*(?P<of>\d+(?:\.\d+)?))?\s*(?:points?|pts?)?\W*$",
    re.I,
)
LABEL = re.compile(r"\W*(?:points?|score|grade)?\s*(?:earned|awarded|given)?\W*$", re.I)


def read_points(text: str) -> tuple[str, float | None] | None:
    """Split a line into what it is about and its points; None if it ends in no number, points None if off the menu."""
    found = POINTS.search(text)
    if not found:
        return None
    about = LABEL.sub("", text[: found.start()])
    got, of = float(found["got"]), float(found["of"] or 1)
    return about, (got if 0 <= got <= 1 and of == 1 else None)


def criterion_of(about: str, items: Sequence[str]) -> int | None:
    """Which of the (plain) items a wording means, or None."""
    about = plain(about)
    if not about:
        return None
    if about in items:
        return items.index(about)
    best = process.extract(about, items, scorer=fuzz.token_sort_ratio, limit=2)
    if best[0][1] >= CLOSE and (len(best) == 1 or best[0][1] - best[1][1] >= APART):
        return best[0][2]
    return None


def read_verdict(reply: str, criteria: Sequence[str]) -> Verdict:
    """The points that a judge's reply gives to each criterion.

    Understood are tables, lists with the points at the end of a line or on the next one, and, if no line names a
    criterion, exactly as many bare points as there are criteria. The last criterion, the number of sentences, may be
    missing, since it is counted in code. Different points for one criterion make the reply unreadable.
    """
    items = [plain(c) for c in criteria]
    given: dict[int, set] = {}
    nameless: list[float | None] = []
    current = None
    for line in reply.splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        if len(cells) > 1 and (numbered := [c for c in cells[1:] if read_points(c)]):
            line = f"{cells[0]} {numbered[0]}"
        found = read_points(line.strip().rstrip("|"))
        about = re.sub(r"^\W*(?:\d+[.)]\s*)?", "", found[0] if found else line)
        named = criterion_of(about, items)
        if named is not None:
            current = named
        if not found:
            continue
        if named is None and plain(about):  # a total, or a remark that happens to end in a number
            continue
        if named is None and current is None:
            nameless.append(found[1])
            continue
        given.setdefault(current, set()).add(found[1])
        current = None
    if not given and len(nameless) == len(items):
        given = {i: {p} for i, p in enumerate(nameless)}
    missing = [criteria[i] for i in range(len(items) - 1) if i not in given]
    if missing:
        return Verdict(None, f"no points for: {'; '.join(missing)}")
    if double := [criteria[i] for i, p in given.items() if len(p) > 1]:
        return Verdict(None, f"different points for: {'; '.join(double)}")
    if strange := [criteria[i] for i, p in given.items() if None in p]:
        return Verdict(None, f"neither 0 nor 1 point for: {'; '.join(strange)}")
    return Verdict(tuple(int(min(given.get(i, {0})) >= 1) for i in range(len(items))))


def count_sentences(text: str) -> int:
    """The reference implementation's count: ends of sentences that a capital follows, and one."""
    text = re.sub(r"(Mr|Mrs|Ms|Dr|Prof). ", r"\1.", text)
    return 1 + len(re.findall(r"[.!?][\"'“”‘’]* [\"'“”‘’]*[A-Z]", text))


def with_counted_sentences(points: Sequence[int], text: str, limit: int) -> tuple[int, ...]:
    """The points with the last one replaced by the count in code."""
    return (*points[:-1], int(count_sentences(text) <= limit))


def majority(gradings: Sequence[Sequence[int]]) -> tuple[int, ...] | None:
    """Each criterion's point by majority over the readable gradings; a tie is 0; None without any grading."""
    if not gradings:
        return None
    return tuple(int(2 * sum(points) > len(gradings)) for points in zip(*gradings, strict=True))


def metrics(points: Sequence[int]) -> dict[str, float]:
    """The three metrics of one generation from its k + 3 points ([YK23]).

    full_marks: all points. all_skills: all k skills and at least two of the other three. skill_fraction: the share of
    skills shown if the other three are all earned, else 0.
    """
    skills, other = points[:-3], points[-3:]
    return {
        "full_marks": float(all(points)),
        "all_skills": float(all(skills) and sum(other) >= 2),
        "skill_fraction": sum(skills) / len(skills) if all(other) else 0.0,
    }


def grade(
    queries: Sequence[Query], texts: Sequence[str], pack: Pack, judge: chat.Endpoint, ledger: Ledger, *, gradings: int
) -> list[list[tuple[int, ...]]]:
    """Ask the judge for `gradings` gradings of each text.

    Returns:
        For each text the points of its readable gradings, sentences counted in code; fewer than `gradings` where the
        judge stayed unreadable after re-asking.
    """
    requests, rubric = {}, {}
    for query, text in zip(queries, texts, strict=True):
        turn = grading_turn(query, text, pack)  # equal texts for equal queries are one question
        requests[turn] = chat.Request([{"role": "user", "content": turn}], n=gradings)
        rubric[turn] = criteria(query, pack.rubric)

    def points(request: chat.Request, reply: chat.Reply) -> tuple[int, ...] | None:
        return read_verdict(reply.text, rubric[request.messages[0]["content"]]).points

    readable = chat.ask(
        list(requests.values()), judge, ledger, stage="judge", usable=lambda q, r: points(q, r) is not None, what="texts graded"
    )
    found = {turn: [points(requests[turn], reply) for reply in replies] for turn, replies in zip(requests, readable, strict=True)}
    return [
        [with_counted_sentences(p, text, sentence_limit(query.k)) for p in found[grading_turn(query, text, pack)]]
        for query, text in zip(queries, texts, strict=True)
    ]
