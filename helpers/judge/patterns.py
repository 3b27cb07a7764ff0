"""Patterns for a judge's words: names of criteria; what introduces, explains, revises points."""

import re
import unicodedata
from functools import cache

THOUGHTS = re.compile(r"(?is)<(think|thinking|reasoning)>(?:(?!<\1).)*?</\1>")
THOUGHT = re.compile(r"(?i)</?(?:think|thinking|reasoning)\b")  # its beginning, or its end
NO_CRITERION = re.compile(  # a table's head, or a line without words
    r"(?i)\W*(?:(criteri(a|on)|items?)?\s*\|\s*(points?( earned)?|score)\W*)?"
)
AFTER_NAME = re.compile(r"\.?(?:$|[:=(]|->|[-–—.]\s)")  # of a list's entry
LEAD = re.compile(r"(?i)\W*(?:(?:criterion|item|skill)?\s*\d+\s*[.):]\s*)?\W*")  # before a name
TOTAL = re.compile(
    r"(?i)\b(?:total|overall|sum|grade|score|mark)s?\b\D*?(\d+(?:\.\d+)?)"
    r"|(\d+(?:\.\d+)?)(?: points?)?\s*(?:/|out of)\s*(?:[2-9]|\d\d)"
)
SAID = {  # a point in the words of a sentence
    0: re.compile(
        r"(?i)(?<![\w.,/-])0(?:\.0+)?(?!\w|[.,]\d)|\bzero\b|\b(?:no|without an?) (?:point|credit)"
        r"|\bnot (?:be )?(?:earn|award|giv|met\b)"
    ),
    1: re.compile(r"(?i)(?<![\w.,/-])1(?:\.0+)?(?!\w|[.,]\d)|\b(?:one|full) (?:point|credit|mark)"),
}
REVISION = re.compile(  # or supposition: with such words around, no point can be trusted
    r"(?i)\b(?:corrections?|corrected|edit(?:ed)?\b|revis\w+|amend\w*|adjust(?:ed|ing|ment)|retract\w*"
    r"|re-?(?:consider|evaluat|grad|assess)\w*|(?:up)?on (?:\w+ )?(?:reflection|review)"
    r"|scratch that|second thoughts?|withdraw\w*|over(?:rul|rid)\w*|disregard\w*|suppos(?:e|ing)"
    r"|hypothetical\w*|pretend\w*|grader|t[ao]ke? (?:\w+ )+back|my mistake|i was wrong"
    r"|should (?:be|get) (?:0|1|zero|one)\b|updated?\b|final\w*\s*:|half a point"
    r"|(?:lower|rais|chang)(?:ed|ing) (?:\w+ )*to|partial\w* (?:credit|point)"
    r"|(?:are|is|be) void|disqualif\w*|deducted)"
)
EXPLANATION = re.compile(r"(?i)\W*(?:explanation|reason|justification|rationale)")
INTRODUCTION = set(  # and what stands beside a total
    "a and answer are as based be below criteria criterion each earned evaluation final "
    "following for glad grade graded grades grading grand greetings happy hello help here "
    "here's how i i'd i'll is it item let mark markdown marks me my of on out overall point "
    "points provided rubric s score scores sum sure table thank thanks the this to total using "
    "would you your".split()
)
STUDENTS_TEXT = re.compile(r"(?i)\bstudent'?s? (?:answer|response|text)\b")
BETWEEN = r"[\W_]+"  # two words of a name
FRAME = "correctly illustrates shows contains pertains to is about text has".split()


def clean(text: str) -> list[str]:
    """The lines, without emphasis, marks of quotation and characters that nobody sees."""
    lines = []
    for line in unicodedata.normalize("NFKC", text).splitlines():
        line = line.replace("→", "->").replace("\t", " | ").replace("’", "'")
        line = re.sub(r"[*`]|(?<!\w)_+|_+(?!\w)", "", line)
        seen = [c for c in line if unicodedata.category(c) not in ("Cc", "Cf")]
        lines.append("".join(seen).strip(" >"))
    return lines


def introduces(line: str) -> bool:
    """Whether a line does no more than introduce the points ("Here's the grading table:")."""
    others = STUDENTS_TEXT.sub("", line.lower())
    words = re.findall(r"[a-z']+", others)
    return INTRODUCTION.issuperset(words)


@cache
def pattern_of(criterion: str) -> re.Pattern:
    """Finds the criterion in a clean line, in upper or lower case.

    Words of its frame ("Shows", "Is about") and what stands in brackets may be left out.
    """
    name, _, bracket = unicodedata.normalize("NFKC", criterion).partition("(")
    words = re.findall(r"[^\W_]+", name) or ["(?!)"]  # without a word it is found nowhere
    frame = ""
    while len(words) > 1 and words[0].lower() in FRAME:
        word = words.pop(0)
        frame += rf"(?:{word}[\W_]+)?"
    remark = ["", *re.findall(r"[^\W_]+", bracket)]
    pattern = frame + BETWEEN.join(words)
    return re.compile(rf"\b{pattern}(?:{BETWEEN.join(remark)})?\b", re.I)
