"""What full marks are ([YK23] section 3): a text's k + 3 points, who decides them, their sums.

The judge decides on each of the k skills, on topic and on sense. Sentences are counted in code.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import sentencex

from helpers.task.catalog import Query, bare

# The judge whose grades are the results; second judges have names of their own.
FIRST_JUDGE = "first"

# What becomes of a text that was written for training.
KEPT = "kept"
DUPLICATE = "full marks, duplicate"
NOT_NEEDED = "full marks, not needed"


@dataclass(frozen=True)
class Points:
    """The points of one grading, each 0 or 1."""

    skills: tuple[int, ...]  # in the query's order
    topic: int
    sense: int
    sentences: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> "Points":
        """From k + 3 numbers in the rubric's order: k skills, topic, sense, sentences."""
        *skills, topic, sense, sentences = numbers
        return cls(tuple(skills), topic, sense, sentences)

    @property
    def numbers(self) -> tuple[int, ...]:
        """All k + 3, in the rubric's order."""
        return (*self.skills, self.topic, self.sense, self.sentences)

    @property
    def full_marks(self) -> bool:
        return all(self.numbers)

    def metrics(self) -> dict[str, float]:
        """The three metrics of one text ([YK23]).

        full_marks: all points. all_skills: all k skills and at least two of the other three.
        skill_fraction: the share of skills shown if the other three are all earned, else 0.
        """
        others = (self.topic, self.sense, self.sentences)
        return {
            "full_marks": float(self.full_marks),
            "all_skills": float(all(self.skills) and sum(others) >= 2),
            "skill_fraction": sum(self.skills) / len(self.skills) if all(others) else 0.0,
        }

    def fault(self) -> str:
        """What a text without full marks lacks, in a few words; empty for full marks."""
        earned = {
            "skill missing": all(self.skills),
            "off topic": self.topic,
            "makes no sense": self.sense,
            "too many sentences": self.sentences,
        }
        faults = [fault for fault, point in earned.items() if not point]
        return "several faults" if len(faults) > 1 else "".join(faults)


def majority(gradings: Sequence[Points]) -> Points | None:
    """Each criterion's point by majority over the gradings; a tie is 0; None without any."""
    if not gradings:
        return None
    votes = zip(*(grading.numbers for grading in gradings), strict=True)
    return Points.of([int(2 * sum(vote) > len(gradings)) for vote in votes])


def sentence_limit(k: int) -> int:
    """The most sentences for k skills: k - 1, and one for a single skill."""
    return max(1, k - 1)


def reference_count(text: str) -> int:
    """The reference implementation's count: ends of sentences that a capital follows, and one.

    docs/protocol.md speaks of "any quotes" around the space; the reference's own code has the
    straight ones only, so curly quotes are where the two differ. It counts as a person does in 54
    of the 100 texts of tests/data/sentences.csv, which were chosen to be hard for it.
    """
    text = re.sub(r"(Mr|Mrs|Ms|Dr|Prof). ", r"\1.", text)
    return 1 + len(re.findall(r"[.!?][\"'“”‘’]* [\"'“”‘’]*[A-Z]", text))


def library_count(text: str) -> int:
    """The count of sentencex, which needs no data of its own: right in 85 of the same 100 texts.

    So are pysbd 0.3.4 (last released in 2021) and nupunkt 0.8; sentence-splitter 1.4 has 78,
    blingfire 76, syntok 75.
    """
    return sum(bool(sentence.strip()) for sentence in sentencex.segment("en", text))


COUNTERS: dict[str, Callable[[str], int]] = {
    "reference": reference_count,
    "sentencex": library_count,
}


@dataclass(frozen=True)
class Rules:
    """What is decided in code, whatever the judge says."""

    sentence_counter: str = "reference"  # a name in COUNTERS
    deduct_named_skills: bool = False  # [YK23]: no point for a skill that the text names

    def apply(self, points: Points, text: str, query: Query) -> Points:
        """A judge's points, with the sentences counted and, if so ruled, named skills deducted.

        A name counts up to its first "(", in upper or lower case, inside of longer words too.
        """
        skills = list(points.skills)
        if self.deduct_named_skills:
            for i, name in enumerate(query.names):
                if bare(name) in text.lower():
                    skills[i] = 0
        sentences = COUNTERS[self.sentence_counter](text)
        within = sentences <= sentence_limit(len(query.items))
        return replace(points, skills=tuple(skills), sentences=int(within))
