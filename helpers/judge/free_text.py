r"""The reader of a judge's reply ([YK23] section 3): from free text to a point for each criterion, or *unreadable* and why.

A reply is read by the criteria's *names*, wherever and in whatever order they stand; what cannot be read is unreadable,
never a zero and never a one. Points are numbers, and whole: a fraction below 1 earns nothing; a word or a check mark is
no number. The road: the reply's lines without markup (`lines_of`); what each says of which criterion, in a table
(`read_row`) or outside of one (`read_line`); what all of them say, held together (`read_verdict`). Where a wording could
mean two criteria, or a number two things, nothing is guessed. tests/data/replies.jsonl holds 397 replies read by hand.
"""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from rapidfuzz import fuzz

from helpers.task.wording import NUMBERS


@dataclass(frozen=True)
class Verdict:
    """The points of one grading, in the rubric's order, or None and why."""

    points: tuple[int, ...] | None
    reason: str = ""


# What a line says: of which criterion (its place in the rubric; None if it names none), and the points (None: not 0 to 1
# of 1), or MENTIONED where it only names the criterion.
MENTIONED = "mentioned"
Said = tuple[int | None, float | str | None]


# ---------------------------------------------------------------- words and names

FRAME = re.compile(  # words that do not tell one criterion from another
    "an?|the|of|to|in|on|is|are|and|its?|has|have|does|texts?|answer|response|students?|piece|correctly|clearly|relevant|about|as|whole|"
    "overall|(?:show|illustrat|contain|demonstrat|us|includ|exhibit|display|employ|pertain|relat|mak)(?:e?s|e|ing|e?d|n)?"
)
EARNED = set("earned awarded given received obtained assigned scored".split())
POINTS = EARNED | set(
    "point points pt pts score scores grade grades mark marks rating result evaluation assessment".split()
)
LABEL = POINTS | set("for topic skill skills criterion criteria item requirement name".split())
MOST = set("max maximum full possible available worth weight weighting can could potential".split())
CLOSE = 88  # similarity (0 to 100) from which two words are one, misspelt: simile and similie 92; allusion and illusion 87.5

# "1. ", "a) ", "Criterion 2: " before a name.
ORDINAL = re.compile(
    r"^\W*(?:(?:criterion|criteria|item|skill|point|no)\b\.?)?\s*#?\(?(\d+|[a-z]|[ivx]+)[.):]+\s+",
    re.I,
)


def plain(text: str) -> str:
    """Lower case, letters and digits only, one space between words: curly quotes and Markdown do not matter."""
    text = re.sub(r"['’‘]", "", unicodedata.normalize("NFKC", text).lower())
    return " ".join(re.findall(r"\w+", text.replace("_", " ")))


@lru_cache(maxsize=2**14)
def words(text: str) -> tuple[str, ...]:
    """What tells a criterion from others: its words but for the frame, numbers as digits."""
    return tuple(
        str(NUMBERS.index(w)) if w in NUMBERS else w
        for w in plain(text).split()
        if not FRAME.fullmatch(w)
    )


@lru_cache(maxsize=2**14)
def agreement(text: str, item: str) -> int:
    """Does the text mean the criterion: 4 the same text, 3 the same words, 2 misspelt, 1 short of its brackets, 0 no."""
    if plain(text) == plain(item):
        return 4
    known = words(item)
    forms = {words(text), tuple(w for w in words(text) if w not in LABEL)} - {()}
    if any(sorted(form) == sorted(known) or "".join(form) == "".join(known) for form in forms):
        return 3
    if any(
        len(form) == len(known)
        and all(fuzz.ratio(*pair) >= CLOSE for pair in zip(form, known, strict=True))
        for form in forms
    ):
        return 2
    return int(
        any(Counter(words(item.split("(")[0])) <= Counter(form) <= Counter(known) for form in forms)
    )


def goes_on_like(cut: str, item: str) -> bool:
    """Does the criterion go on like a wording cut short with three dots, at its end or in its middle?"""
    parts = [" ".join(words(part)) for part in cut.split("...")]
    return any(parts) and bool(
        re.fullmatch(".*".join(map(re.escape, parts)), " ".join(words(item)))
    )


def criterion_of(about: str, items: Sequence[str]) -> int | None:
    """Which of the criteria a wording means best; None if none, or more than one, could be meant.

    A list number, a label ("Skill:") and a remark in brackets do not count; "topic" alone is the criterion on the topic.
    """
    about = re.sub(
        r"\.{4,}|(?:\s\.){2,}", " ", about.replace("…", "...")
    )  # rows of dots lead to the points
    bare = ORDINAL.sub("", about)
    if "..." in bare:
        levels = [goes_on_like(bare, item) for item in items]
    else:
        unremarked = re.sub(r"[(\[][^][()]*[)\]]\W*$", "", bare)
        levels = [
            max(agreement(about, i), agreement(bare, i)) or agreement(unremarked, i) > 1
            for i in items
        ]
    if not any(levels) and [w for w in words(bare) if w not in LABEL - {"topic"}] == ["topic"]:
        return len(items) - 3
    best = [i for i, level in enumerate(levels) if level and level == max(levels)]
    return best[0] if len(best) == 1 else None


def name_of(text: str, items: Sequence[str]) -> int | None:
    """The criterion that a text is, or opens with before a colon, a dash or a full stop."""
    ends = [len(text), *(end.start() for end in re.finditer(r":|\s[–—-]\s|\.(?=\s)", text[:300]))]
    return next(
        (
            i
            for end in sorted(ends, reverse=True)
            if (i := criterion_of(text[:end], items)) is not None
        ),
        None,
    )


# ---------------------------------------------------------------- points

NUMBER = r"(?:\d+⁄\d+|\d+(?:[.,]\d+)?|\.\d+|(?:zero|one)\b)"  # ½ becomes 1⁄2
UNIT = r"\s*(?:points?|pts?|marks?)?"
LAST_NUMBER = re.compile(  # 1, 0.5, +1, 1/1, 1 out of 1, 1 point (max 1), 1.0.
    r"(?i)(?<![\w./⁄<>≤≥≈~#$+−–-])(?<!\d,)"  # not the rest of a word, a date, a range, a thousand
    rf"(?P<got>[+−–-]?{NUMBER}){UNIT}"
    r"(?:\s*[(\[,]?\s*(?:/|out of|of|max(?:imum)?\.?:?)\s*(?:a )?(?:possible |maximum |total )?(?:of )?"  # what could be earned
    rf"(?P<of>{NUMBER})(?:\s*possible)?)?{UNIT}"
    r"(?:\s*(?:earned|awarded|given))?[\s.,;:!)\]}\"'”’\\]*$"
)
# A number after one of these counts things ("shows 1"), or belongs to a name ("item 1").
COUNTED = re.compile(
    r"(?i)\b(?:an?|the|of|to|in|on|and|it|ha[sv]e?|about|as|text|shows?|contains?|uses?|criteri\w+|skill|item|topic)\s+$"
)
IN_BRACKETS = re.compile(r"[(\[]\s*[\d.]+\s*(points?|pts?|marks?)?\s*[)\]]\s*$", re.I)
# Where a remark may begin after the points.
REMARK = re.compile(
    r"[.,;](?=\s+\D)|\s[–—-]\s(?=\s*\D)|(?<=/1[)\]]):(?=\s+\D)|\s*[(\[]|\s(?=because\b|since\b|as\b)",
    re.I,
)
LABELLED = r"(?:points?|score)(?:\s+(?:earned|awarded|given|received))?\s*[:=]\s*"
# A remark, then a label: "The needle is a mirror. Point earned: "; what the line opens with is group 1.
CLOSING = re.compile(
    rf"(?i)(?!.*{LABELLED}\d)(.*?(?:^|[.;!?)\]\"'”’](?=\s)|\s[–—-](?=\s)))\s*{LABELLED}$"
)


def read_points(text: str) -> tuple[str, float | None] | None:
    """Split a text into what it is about and the points it ends in; None if it ends in no number, points None if off the menu."""
    if not (found := LAST_NUMBER.search(text)) or COUNTED.search(text[: found.start()]):
        return None
    got, *over = (
        found["got"].lower().replace("zero", "0").replace("one", "1").replace(",", ".").split("⁄")
    )
    points = -1 if got[0] in "−–-" else float(got) / (float("".join(over) or 1) or 1)
    return text[: found.start()], points if 0 <= points <= 1 and found["of"] in (
        None,
        "1",
        "1.0",
        "one",
    ) else None


def splits(text: str) -> Iterator[tuple[str, float | None]]:
    """`read_points` of the text and of what stands before each remark in it; "(1 point)" may be what a criterion is worth."""
    for end in (len(text), *(remark.start() for remark in REMARK.finditer(text))):
        bracket = IN_BRACKETS.search(text[:end])
        if (found := read_points(text[:end])) and not (
            bracket and (bracket[1] or end < len(text) or found[1] is None)
        ):
            yield found


# ---------------------------------------------------------------- lines

JSON_PART = re.compile(
    r"(?ms)^[ \t]*[{\[]\s*(?:[\"'{\[]|$)(?:.*[}\]]|.*)"
)  # from an opening bracket to the last closing one
JSON_TOKEN = re.compile(r'("(?:[^"\\\n]|\\.)*")|[{}\[\],]')
HTML_ROW = re.compile(r"(?is)<tr\b.*?(?:</tr\s*>|(?=<tr\b|</table|\Z))")
TAG_OR_EMPHASIS = re.compile(r"(?i)</?[a-z][^<>\n]*>|(?<!\w)_+|_+(?!\w)")
TAGS = {"</t": " | ", "<li": "\n"}  # the end of a cell, the start of an item; all others are spaces


def lines_of(reply: str) -> list[str]:
    """The reply's lines without markup. Rows of an HTML table become lines with bars, members of a JSON object lines."""
    text = unicodedata.normalize(
        "NFKC", re.sub(r"\r\n?|[\v\f\x85\u2028\u2029]", "\n", html.unescape(reply))
    )
    text = "".join(
        c
        for c in text
        if c in "\n\t"
        or (unicodedata.category(c) not in ("Cc", "Cf") and c not in "\ufe0f\u20e3*`")
    )
    text = HTML_ROW.sub(lambda row: "\n|" + " ".join(row[0].split()), text)
    text = TAG_OR_EMPHASIS.sub(lambda tag: TAGS.get(tag[0][:3].lower(), " "), text)
    text = JSON_PART.sub(
        lambda part: JSON_TOKEN.sub(lambda token: token[1] or "\n", part[0]), text, count=1
    )
    lines = [re.sub(r"[│┃]|(?<=[\w)])\t+(?=\S)", "|", line).strip() for line in text.split("\n")]
    cut = (
        lines[-1].startswith("|")
        and not lines[-1].endswith("|")
        and any(x.startswith("|") and x.endswith("|") for x in lines)
    )
    return lines[: len(lines) - cut]  # without a row that was cut off


# ---------------------------------------------------------------- what a line says


def column(head: str) -> int:
    """What a table's column holds by its head: 2 points earned, 1 points, 0 not said, -1 something else, -2 the most to be earned."""
    named = set(plain(re.sub(r"\([^()]*\d[^()]*\)", "", head)).split())
    if named & MOST or (named & {"out", "total"} and not named & EARNED):
        return -2
    if not named & POINTS or named & {"lost", "deducted", "missed", "off"}:
        return -1 if named else 0
    return 2 if named & EARNED and named - EARNED & POINTS else 1


def read_row(cells: Sequence[str], heads: Sequence[str], items: Sequence[str]) -> list[Said]:
    """A table's row. Its heads say which number counts; without them, all after the name do. Or they are the criteria."""
    heads = (
        heads if len(heads) >= len(cells) else [""] * len(cells)
    )  # too few heads: which is whose?
    held = [{p for about, p in splits(cell) if set(words(about)) <= POINTS} for cell in cells] + [
        set()
    ] * (len(heads) - len(cells))
    named = [(n, i) for n, cell in enumerate(cells) if (i := criterion_of(cell, items)) is not None]
    named = named or [(0, i) for i in [name_of(cells[0], items)] if i is not None]
    if not named:
        if above := [
            (i, points)
            for head, points in zip(heads, held, strict=True)
            if (i := criterion_of(head, items)) is not None
        ]:
            return [
                (i, p)
                for i, points in above
                for p in points or [None]
                if any(held) and column(cells[0]) > -2
            ]
        return read_line(" ".join(cells).strip(), items)
    (at, name), kinds = named[0], list(map(column, heads))
    counted = [
        n
        for n, kind in enumerate(kinds)
        if kind == max(kinds) and (kind > 0 or (kind == 0 and n > at and held[n]))
    ]
    odd = any(int(x) > 1 for n in counted for x in re.findall(r"\d+", heads[n]))  # another scale
    odd = odd or any(points - {1} for kind, points in zip(kinds, held, strict=True) if kind == -2)
    return [
        (name, MENTIONED),
        *((name, None if odd else p) for n in counted for p in held[n] or [None]),
    ]


def read_several(line: str, items: Sequence[str]) -> list[Said]:
    """What a line says that gives points to several criteria, or several bare points; nothing if it is no such line."""
    parts = [read_points(part) for part in re.split(r"[;,]\s+|(?<=\d)\.\s+(?=\D)", line)]
    if len(parts) < 2 or not all(parts):
        return []
    several = [(criterion_of(about, items), p) for about, p in parts]
    if all(
        i is not None or {"total", "grade"} & set(words(about))
        for (i, _), (about, _) in zip(several, parts, strict=True)
    ):
        return [(i, p) for i, p in several if i is not None]
    return several if all(set(words(about)) <= POINTS for about, _ in parts) else []


def read_line(line: str, items: Sequence[str]) -> list[Said]:
    """A line outside of tables: a name, a name and its points, several of them, or points that belong to a name above."""
    if re.fullmatch(r"[\s>-]*\d+[.)]\s*", line):  # a list number
        return []
    if (
        name := criterion_of(re.sub(r"[][()]", " ", line) if read_points(line) else line, items)
    ) is not None:
        return [(name, MENTIONED)]
    line = ORDINAL.sub("", line)
    if said := read_several(line, items):
        return said
    said = [(i, p) for about, p in splits(line) if (i := criterion_of(about, items)) is not None]
    if (last := read_points(line)) and (closing := CLOSING.match(last[0])):
        said.append((name_of(closing[1], items), last[1]))
    said = said or [(None, p) for about, p in splits(line) if set(words(about)) <= POINTS]
    return said or [(i, MENTIONED) for i in [name_of(line, items)] if i is not None]


# ---------------------------------------------------------------- the whole reply


def statements(lines: Iterable[str], items: Sequence[str]) -> Iterator[Said]:
    """What the lines say of which criterion; points without a name belong to the last name, outside of tables."""
    heads: list[str] = []
    current, given, nameless, gap, blank = None, set(), 0, False, False
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        table, names = (
            len(cells) > 1,
            [i for cell in cells if (i := criterion_of(cell, items)) is not None],
        )
        worded = sum(bool(words(cell)) for cell in cells) > 1
        if (
            table
            and worded
            and len(names) != 1
            and all(column(cell) > 0 for cell in cells if read_points(cell))
        ):
            heads, said = cells, [(i, MENTIONED) for i in names]
        else:
            said = read_row(cells, heads, items) if table else read_line(cells[0], items)
        gap = gap or bool(nameless and not said and plain(line))
        for name, points in said:
            if name is not None:
                yield name, points
                current = None if table else name
                given |= {name} if points != MENTIONED else set()
            elif current is None:  # in place of names: one after the other, list numbers in order
                nameless += 1
                number = ORDINAL.match(line)
                yield None, None if gap or (number and number[1] != str(nameless)) else points
            elif current not in given or (
                points is not None
                and re.search("point|score" if blank else "^(?!.*grade)", line, re.I)
            ):
                given.add(current)  # a second time, where it cannot be the total
                yield current, points
        blank = not line


def read_verdict(reply: str, criteria: Sequence[str]) -> Verdict:
    """The points that a judge's reply gives to each criterion.

    Understood are tables, lists, points on a line below the name, and, if no line names a criterion, exactly as many
    bare points. The last criterion may be missing, since sentences are counted in code. What is quoted earns nothing.
    """
    lines = lines_of(reply)
    own, quoted = (
        list(statements((x.lstrip("> ") for x in lines if x.startswith(">") is q), criteria))
        for q in (False, True)
    )
    bare = list(takewhile(lambda said: said[0] is None, own))
    if len(bare) == len(own) == len(criteria):
        own = [(i, points) for i, (_, points) in enumerate(bare)]
    elif len(bare) < len(own) and any(points is not None for _, points in bare):
        return Verdict(None, "points before the first criterion")

    def points_of(i: int, said: list[Said]) -> set:
        return {
            None if points is None else int(points)
            for name, points in said
            if name == i and points != MENTIONED
        }

    if missing := [criterion for i, criterion in enumerate(criteria[:-1]) if not points_of(i, own)]:
        return Verdict(None, f"no points for: {'; '.join(missing)}")
    given = [points_of(i, own + quoted) or {0} for i in range(len(criteria))]
    if double := [
        criterion for criterion, points in zip(criteria, given, strict=True) if len(points) > 1
    ]:
        return Verdict(None, f"different points for: {'; '.join(double)}")
    if strange := [
        criterion for criterion, points in zip(criteria, given, strict=True) if None in points
    ]:
        return Verdict(None, f"neither 0 nor 1 point for: {'; '.join(strange)}")
    return Verdict(tuple(min(points) for points in given))


def own_verdict(reply: str, criteria: Sequence[str], text: str) -> Verdict:
    """`read_verdict`, but a reply that could be the student's own grading, handed back, is not believed.

    Where the graded text holds a readable rubric and the judge's points are exactly those, nobody can tell the judge's
    mind from a copy, and an honest judge who happens to agree is lost too: counted, and shown by 03. Zeros throughout are
    believed: they give nothing away.
    """
    verdict = read_verdict(reply, criteria)
    if verdict.points is None or not any(verdict.points[:-1]):
        return verdict
    planted = read_verdict(text, criteria).points
    if (
        planted and planted[:-1] == verdict.points[:-1]
    ):  # the last point, of sentences, is counted in code
        return Verdict(None, "the same points as in a grading that stands in the student's text")
    return verdict
