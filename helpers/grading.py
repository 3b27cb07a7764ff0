r"""From a judge's reply to points ([YK23] section 3): the rubric's reader, the sentence counter, the vote, the metrics.

A reply is read by the criteria's *names*; what cannot be read is `unreadable` with a reason, never a zero and never a
one. Points are numbers, and whole: a fraction below 1 earns nothing; a word or a check mark is not a number.
"""

import html
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile, zip_longest

from rapidfuzz import fuzz

from helpers import chat
from helpers.catalog import Query
from helpers.ledger import Ledger
from helpers.prompts import NUMBERS, Pack, criteria, grading_turn, sentence_limit

CLOSE = 85  # similarity (0 to 100) from which two long words are one, misspelt; inductive and deductive have 78

# Words that do not tell one criterion from another: around its name; for the points; for criteria of a kind.
FRAME = set(
    "a an the of to in on is are and its has have does it text texts answer response student students piece correctly clearly show "
    "shows showing shown illustrates illustrate illustrated contains contain demonstrates demonstrate uses use using includes include "
    "exhibits displays employs presents pertains pertain relates relate related relevant about stays make makes making as whole overall".split()
)
EARNED = set("earned awarded given received obtained assigned scored".split())
POINTS = EARNED | set("point points pt pts score scores grade grades mark marks".split())
LABEL = POINTS | set("for topic skill skills criterion criteria item requirement name".split())
MOST = set("max maximum possible available worth weight weighting can could potential".split())

NUMBER = r"(?:\d+⁄\d+|\d+(?:[.,]\d+)?|\.\d+|(?:zero|one)\b)"  # ½ becomes 1⁄2
LAST_NUMBER = re.compile(  # 1, 0.5, +1, 1/1, 1 out of 1, 1 point (max 1), 1.0.
    rf"(?<![\w.,/⁄<>≤≥≈~#$+−–-])(?P<got>[+−–-]?{NUMBER})\s*(?:points?|pts?|marks?)?"
    rf"(?:\s*[(\[,]?\s*(?:/|out of|of|max(?:imum)?\.?:?)\s*(?:a )?(?:possible |maximum |total )?(?:of )?(?P<of>{NUMBER}))?"
    r"\s*(?:points?|pts?|marks?)?(?:\s*(?:earned|awarded|given|possible))?[\s.,;:!)\]}\"'”’]*$",
    re.I,
)
REMARK = re.compile(r"[.,;](?=\s+\D)|\s[–—-]\s(?=\s*\D)|(?<=/1[)\]]):(?=\s+\D)|\s*[(\[]|\s(?=because\b|since\b|as\b)", re.I)
IN_BRACKETS = re.compile(r"[(\[]\s*[\d.]+\s*(?:points?|pts?)?\s*[)\]]\s*$", re.I)
CLOSING = re.compile(r"(?:^|[.;!?)\]\"'”’]\s+|\s[–—-]\s*)(?:points?|score)(?:\s+(?:earned|awarded|given|received))?\s*[:=]\s*$", re.I)
ORDINAL = re.compile(r"^\W*(?:(?:criterion|criteria|item|skill|point|no)\b\.?)?\s*#?\(?(\d+|[a-z]|[ivx]+)[.):]+\s+", re.I)
MENTIONED = "mentioned"  # a criterion is named, its points may follow
Said = tuple[int | None, float | str | None]  # criterion or None for no name; points, None for off the menu, or MENTIONED


@dataclass(frozen=True)
class Verdict:
    """The points of one grading, in the rubric's order, or None and why."""

    points: tuple[int, ...] | None
    reason: str = ""


def plain(text: str) -> str:
    """Lower case, letters and digits only, one space between words: curly quotes and Markdown do not matter."""
    text = re.sub(r"['’‘]", "", unicodedata.normalize("NFKC", text).lower())
    return " ".join(re.findall(r"\w+", text.replace("_", " ")))


@lru_cache(maxsize=100_000)
def words(text: str) -> tuple[str, ...]:
    """What tells a criterion from others: its words but for the frame, numbers as digits."""
    return tuple(str(NUMBERS.index(w)) if w in NUMBERS else w for w in plain(text).split() if w not in FRAME)


def read_points(text: str) -> tuple[str, float | None] | None:
    """Split a text into what it is about and the points it ends in; None if it ends in no number, points None if off the menu."""
    found = LAST_NUMBER.search(text)
    if not found:
        return None
    got, *over = found["got"].lower().replace("zero", "0").replace("one", "1").replace(",", ".").split("⁄")
    points = float(got) / float(over[0]) if over and float(over[0]) else float(got) if got[0] not in "−–-" else -1
    on_menu = 0 <= points <= 1 and found["of"] in (None, "1", "1.0", "one")
    return text[: found.start()], points if on_menu else None


def splits(text: str) -> Iterator[tuple[str, float | None]]:
    """`read_points` of the text, and of what stands before each remark in it. "(1 point)" with a remark may be what it is worth."""
    ends = [len(text), *(m.start() for m in REMARK.finditer(text))]
    for end in ends:
        if (found := read_points(text[:end])) and (end == len(text) or not IN_BRACKETS.search(text[:end])):
            yield found


@lru_cache(maxsize=100_000)
def agreement(text: str, item: str) -> int:
    """Does the text mean the criterion: 4 the same text, 3 the same words, 2 long ones misspelt, 1 short of its brackets, 0 no."""
    if plain(text) == plain(item):
        return 4
    known, best = words(item), 0
    for form in {words(text), tuple(w for w in words(text) if w not in LABEL)} - {()}:
        pairs = zip(form, known, strict=False)
        if sorted(form) == sorted(known) or "".join(form) == "".join(known):
            best = max(best, 3)
        elif len(form) == len(known) and all(a == b or (min(len(a), len(b)) > 4 and fuzz.ratio(a, b) >= CLOSE) for a, b in pairs):
            best = max(best, 2)
        elif Counter(words(item.split("(")[0])) <= Counter(form) <= Counter(known):
            best = max(best, 1)
    return best


def criterion_of(about: str, items: Sequence[str]) -> int | None:
    """Which of the criteria a wording means best; None if none, or more than one, could be meant.

    A list number, a label ("Skill:") and a remark in brackets do not count; "topic" alone is the criterion on the topic.
    """
    about = re.sub(r"\.{4,}|(?:\s\.){2,}", " ", about.replace("…", "..."))  # rows of dots lead to the points
    bare = ORDINAL.sub("", about)
    if "..." in bare:  # cut short: any criterion that goes on like this
        known = [re.escape(" ".join(words(part))) for part in bare.split("...")]
        levels = [int(any(known) and bool(re.fullmatch(".*".join(known), " ".join(words(item))))) for item in items]
    else:
        unremarked = re.sub(r"[(\[][^][()]*[)\]]\W*$", "", bare)
        levels = [max(agreement(about, i), agreement(bare, i)) or int(agreement(unremarked, i) > 1) for i in items]
    if not any(levels) and words(about) == ("topic",):
        return len(items) - 3
    hits = [i for i, level in enumerate(levels) if level and level == max(levels)]
    return hits[0] if len(hits) == 1 else None


def name_of(text: str, items: Sequence[str]) -> int | None:
    """The criterion that a text is, or opens with before a colon, a dash or a full stop."""
    ends = [len(text), *(m.start() for m in re.finditer(r":|\s[–—-]\s|\.(?=\s)", text[:300]))]
    return next((i for end in sorted(ends, reverse=True) if (i := criterion_of(text[:end], items)) is not None), None)


def lines_of(reply: str) -> list[str]:
    """The reply's lines without markup. Rows of an HTML table become lines with bars, members of a JSON object lines."""
    text = unicodedata.normalize("NFKC", re.sub(r"\r\n?|[\v\f\x85\u2028\u2029]", "\n", html.unescape(reply)))
    text = "".join(c for c in text if c in "\n\t" or (unicodedata.category(c) not in ("Cc", "Cf") and c not in "\ufe0f\u20e3*`"))
    text = re.sub(r"<tr\b.*?(?:</tr\s*>|(?=<tr\b|</table|\Z))", lambda m: "\n|" + " ".join(m[0].split()), text, flags=re.S | re.I)
    text = re.sub(r"</?[a-z][^<>\n]*>", lambda m: {"</t": " | ", "<li": "\n"}.get(m[0][:3].lower(), " "), text, flags=re.I)
    if found := re.search(r"^\s*[{\[]\s*(?:[\"'{\[]|$)", text, re.M):
        start, end = found.start(), max(text.rfind("}"), text.rfind("]"), found.end())
        members = re.sub(r'("(?:[^"\\\n]|\\.)*")|[{}\[\],]', lambda m: m[1] or "\n", text[start:end])
        text = text[:start] + members + text[end:]
    lines = [re.sub(r"[│┃]|(?<=[\w)])\t+(?=\S)", "|", line).strip() for line in text.split("\n")]
    if lines[-1].startswith("|") and not lines[-1].endswith("|") and any(x.startswith("|") and x.endswith("|") for x in lines):
        lines.pop()  # cut off inside a row
    return lines


def labels_only(text: str) -> bool:
    return not set(words(text)) - POINTS


def column(head: str) -> int:
    """What a table's column holds by its head: 3 points earned, 2 points, -1 the most that can be earned, 0 something else."""
    named = set(plain(re.sub(r"\([^()]*\d[^()]*\)", "", head)).split())
    if named & MOST or (named & {"out", "total"} and not named & EARNED):
        return -1
    return 3 if named & EARNED and named & (POINTS - EARNED) else 2 if named & POINTS else 0


def read_row(cells: Sequence[str], heads: Sequence[str], items: Sequence[str]) -> list[Said]:
    """A row of a table. Its heads say which number counts; without them all that follow the name do. Or they are the criteria."""
    held = [{points for about, points in splits(cell) if labels_only(about)} for cell in cells]
    columns = list(zip_longest(heads, map(column, heads), cells, held, fillvalue=""))
    names = [(n, i) for n, cell in enumerate(cells) if (i := criterion_of(cell, items)) is not None]
    names = names or [(0, i) for i in [name_of(cells[0], items)] if i is not None]
    if not names:
        if above := [(i, points) for head, _, _, points in columns if (i := criterion_of(head, items)) is not None]:
            return [(i, p) for i, points in above for p in points or [None] if column(cells[0]) >= 0]
        bare = sum(map(bool, held)) == 1 and not any(words(cell) for _, _, cell, points in columns if not points)
        return [(None, p) for points in held for p in points if bare]
    at, name = names[0]
    best = max([kind for _, kind, _, _ in columns if kind], default=0)
    counted = [c for c in columns if c[1] == best] if best > 0 else [c for c in columns[at + 1 :] if c[3] and c[1] != -1]
    odd = any(set(points) - {1} for _, kind, _, points in columns if kind == -1)  # other scales: a maximum that is not 1
    odd = odd or any(int(n) > 1 for head, *_ in counted for n in re.findall(r"\d+", head))
    return [(name, MENTIONED), *((name, None if odd else p) for *_, points in counted for p in points or [None])]


def read_line(line: str, items: Sequence[str]) -> list[Said]:
    """A line outside of tables: a name, a name and its points, several of them, or points that belong to a name above."""
    last = read_points(line)
    if re.fullmatch(r"[\s>-]*\d+[.)]\s*", line):  # a list number
        return []
    if (name := criterion_of(re.sub(r"[][()]", " ", line) if last else line, items)) is not None:
        return [(name, MENTIONED)]
    parts = [read_points(part) for part in re.split(r"[;,]\s+|(?<=\d)\.\s+(?=\D)", ORDINAL.sub("", line))]
    if len(parts) > 1 and all(parts):
        several = [(criterion_of(about, items), p) for about, p in parts]
        named = [(i, p) for i, p in several if i is not None]
        if all(i is not None or not set(words(about)) - POINTS - {"total"} for (i, _), (about, _) in zip(several, parts, strict=True)):
            return named or several
    said = [(i, p) for about, p in splits(line) if (i := criterion_of(about, items)) is not None]
    if last and (closing := CLOSING.search(last[0])):
        said.append((name_of(last[0][: closing.start() + 1], items), last[1]))
    said = said or [(None, p) for about, p in splits(line) if labels_only(ORDINAL.sub("", about))]
    return said or [(name, MENTIONED) for name in [name_of(line, items)] if name is not None]


def statements(lines: Iterable[str], items: Sequence[str]) -> Iterator[Said]:
    """What the lines say of which criterion; points without a name belong to the last name, outside of tables."""
    heads: list[str] = []
    current, given, nameless = None, set(), 0
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 1:
            if not any(read_points(cell) and not column(cell) for cell in cells) and (
                any(map(column, cells)) or sum(criterion_of(cell, items) is not None for cell in cells) > 1
            ):
                heads = cells
                continue
            said = read_row(cells, heads, items)
        else:
            said = read_line(line, items)
        for name, points in said:
            if name is not None:
                yield name, points
                current = None if len(cells) > 1 else name
                given |= {name} if points != MENTIONED else set()
            elif current is None:
                nameless += 1
                number = ORDINAL.match(line)
                yield None, None if number and number[1] not in (str(nameless), "") else points
            elif current not in given or (points is not None and "grade" not in plain(line)):  # a grade may be the total
                given.add(current)
                yield current, points


def read_verdict(reply: str, criteria: Sequence[str]) -> Verdict:
    """The points that a judge's reply gives to each criterion.

    Understood are tables, lists with the points at the end of a line or on a later one, and, if no line names a
    criterion, exactly as many bare points as there are criteria. The last criterion, the number of sentences, may be
    missing, since it is counted in code. What is quoted (`>`) earns nothing. Different points for one criterion make
    the reply unreadable.
    """
    lines = lines_of(reply)
    own = list(statements((line for line in lines if not line.startswith(">")), criteria))
    quoted = list(statements((line.lstrip("> ") for line in lines if line.startswith(">")), criteria))
    before = list(takewhile(lambda said: said[0] is None, own))
    given: dict[int, set] = defaultdict(set)
    for name, points in own:
        if name is not None and points != MENTIONED:
            given[name].add(None if points is None else int(points))
    if len(before) < len(own) and any(points is not None for _, points in before):
        return Verdict(None, "points before the first criterion")
    if own and len(before) == len(own) == len(criteria):
        given = {i: {None if points is None else int(points)} for i, (_, points) in enumerate(own)}
    if missing := [criteria[i] for i in range(len(criteria) - 1) if i not in given]:
        return Verdict(None, f"no points for: {'; '.join(missing)}")
    for name, points in quoted:
        if name in given and points != MENTIONED:
            given[name].add(None if points is None else int(points))
    if double := [criteria[i] for i, points in given.items() if len(points) > 1]:
        return Verdict(None, f"different points for: {'; '.join(double)}")
    if strange := [criteria[i] for i, points in given.items() if None in points]:
        return Verdict(None, f"neither 0 nor 1 point for: {'; '.join(strange)}")
    return Verdict(tuple(min(given.get(i, {0})) for i in range(len(criteria))))


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
