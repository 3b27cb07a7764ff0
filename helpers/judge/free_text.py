"""The reader of a judge's free-text reply ([YK23] section 3): points by criterion, or why not.

It reads what the prompts ask for: a table of criteria and points, or a list with an entry for each
criterion, the point on its line or below it as "Point earned: 1". Each criterion is found by its
name and needs a point of exactly 0 or 1, and nothing else in the reply may contradict it. A reply
that does, or could mean two things, is unreadable: to ask again costs a request, a wrong point
could turn a result round.
"""

import re
from collections.abc import Sequence

from helpers.judge import patterns
from helpers.judge.verdict import Doubt, Verdict

ONE_POINT = (  # 1, 1.0, 1/1, 1 point; not the 1 of 1/2, 1 of 5, 0-1
    r"(?<![\w.,/⁄+~<>≈−–-])([01])(?:\.0+)?(?:\s?/\s?1(?:\.0+)?| out of 1)?(?:\s+(?:points?|pts?))?"
    r"(?![\w%?/⁄]|[.,]\d|\s*(?:/|(?:out )?of\b|or\b|to\b|[-–]+>?)\s*\d)"
)
AROUND = r"[\s\"'().\[\]]*"  # what may stand around it
POINT = re.compile(rf"(?i){AROUND}{ONE_POINT}{AROUND}")
ONLY_POINT = re.compile(rf"(?i)(?:.*->)?[\s.:=–—-]*{AROUND}{ONE_POINT}{AROUND}")
LABELLED = re.compile(rf"(?i)\bpoints?(?: earned| awarded)?\s*[:=]\s*[\"'(\[]*(?:{ONE_POINT}|)")


class Reading:
    """What the lines of a reply say, read one after the other."""

    def __init__(self, criteria: Sequence[str]):
        assert len(set(criteria)) == len(criteria), criteria
        self.names = {criterion: patterns.pattern_of(criterion) for criterion in criteria}
        self.points = {}  # by criterion
        self.claims = []  # of sentences: (criteria, a point that one of them must have)
        self.totals = []
        self.current = set()  # the criterion of the last entry
        self.prose = self.explained = False

    def mentioned(self, text: str) -> set[str]:
        return {criterion for criterion, name in self.names.items() if name.search(text)}

    def nameless(self, text: str) -> str:
        for name in self.names.values():
            text = name.sub("", text)
        return text

    def opening(self, text: str) -> tuple[set[str], str]:
        """The criterion with whose name a text begins (the longest such name), and the rest."""
        start = patterns.LEAD.match(text).end()
        matches = {criterion: name.match(text, start) for criterion, name in self.names.items()}
        ends = {criterion: match.end() for criterion, match in matches.items() if match}
        end = max(ends.values(), default=0)
        names = {criterion for criterion in ends if ends[criterion] == end}
        return names, text[end:].lstrip(" \"')]")

    def line(self, line: str) -> None:
        if patterns.REVISION.search(self.nameless(line)):
            raise Doubt("words that revise or suppose")
        names, rest = self.opening(line)
        if "|" in line:
            self.row(line)
        elif names and patterns.AFTER_NAME.match(rest):
            if self.prose and not self.points:
                raise Doubt("text before the points that does not introduce them")
            self.entry(names, rest)
        elif self.current and LABELLED.search(line) and not patterns.TOTAL.search(line):
            self.entry(self.current, line)
        elif re.search(r"\w", line):
            self.sentence(line)

    def row(self, line: str) -> None:
        """Read a row of a table: a criterion and its point, the head, or the total."""
        self.current = set()
        if self.mentioned(line):
            cells = line.strip("|").split("|")
            names, rest = self.opening(cells[0])
            is_cut_off = line.startswith("|") != line.endswith("|")
            if is_cut_off or self.prose or len(cells) != 2 or re.search(r"\w", rest):
                raise Doubt("a row that is cut off, or not a criterion's in one table")
            self.give(names, POINT.fullmatch(cells[1]))
        elif patterns.NO_CRITERION.fullmatch(line) or patterns.TOTAL.search(line):
            self.claim(line, set())
        else:
            raise Doubt("a row that is neither head, total nor criterion")

    def entry(self, names: set[str], text: str) -> None:
        """Read an entry of a list: what follows a criterion's name, or its point below it."""
        self.current = names
        if point := ONLY_POINT.fullmatch(text):
            self.give(names, point)
        for label in LABELLED.finditer(text):
            self.give(names, label)
        self.claim(text, names)

    def give(self, names: set[str], point: re.Match | None) -> None:
        listed = "; ".join(sorted(names))
        if len(names) != 1 or not point or not point[1]:
            raise Doubt(f"neither 0 nor 1 point for: {listed}")
        number = int(point[1])
        if self.points.setdefault(listed, number) != number:
            raise Doubt(f"different points for: {listed}")

    def sentence(self, line: str) -> None:
        """Read prose: an introduction, reasons, a total, or an explanation after the points."""
        is_complete = len(self.points) == len(self.names)
        if is_complete and patterns.EXPLANATION.match(line):
            self.prose = self.explained = True
            self.current = set()
        elif not patterns.introduces(line):
            self.prose = True
            if is_complete and not self.explained:
                raise Doubt("text after the points that does not explain them")
        self.claim(re.sub(r"^\W*\d+[.):]\s", "", line), self.current)

    def claim(self, text: str, about: set[str]) -> None:
        """Note what each sentence says of points; `verdict` compares that with the points given."""
        for part in re.split(r"(?<=[.;!?])\s", text):
            names = self.mentioned(part)
            about = names or about
            if (total := patterns.TOTAL.search(part)) and not names:
                self.totals.append(float(total[1] or total[2]))
                continue
            said = POINT.sub(r" \1 ", self.nameless(part))
            points = [point for point, words in patterns.SAID.items() if words.search(said)]
            self.claims += [(about or set(self.names), point) for point in points]

    def verdict(self) -> Verdict:
        """The points, if each criterion has one and all else agrees."""
        missing = [criterion for criterion in self.names if criterion not in self.points]
        if missing:
            raise Doubt(f"criteria without points: {'; '.join(missing)}")
        points = [self.points[criterion] for criterion in self.names]
        if set(self.totals) - {sum(points)}:
            raise Doubt("a total that is not the points'")
        for about, point in self.claims:
            if point not in {self.points[criterion] for criterion in about}:
                raise Doubt("text that says otherwise than the points")
        return Verdict(tuple(points))


def read_verdict(reply: str, criteria: Sequence[str]) -> Verdict:
    """The points that a judge's reply gives to each criterion; closed thoughts are left out."""
    text = patterns.THOUGHTS.sub("\n", reply)
    reading = Reading(criteria)
    try:
        if patterns.THOUGHT.search(text):
            raise Doubt("a thought without its beginning or end")
        for line in patterns.clean(text):
            reading.line(line)
        return reading.verdict()
    except Doubt as doubt:
        return Verdict(None, str(doubt))
